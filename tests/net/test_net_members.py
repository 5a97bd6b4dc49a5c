"""Members on networks: reach, names, isolation, ports, and that nothing stays behind; packets really flow."""

from __future__ import annotations

import errno
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from net_lab import Member

from host import paths
from host.errors import Failure, InUse, NotFound, Usage
from host.linux import net
from host.linux.net import addresses, members, netlink, networks, nftables
from host.linux.net.ports import Port

Make = Callable[[], Member]
Ended = list[subprocess.Popen[bytes]]


def _attach(home: Path, name: str, inside: Member, network: str = "bridge", **more: object) -> net.Lease:
    return net.attach(home, network, name, inside.fd, **more)  # type: ignore[arg-type]


def _reply(port: int, host: str = "127.0.0.1", udp: bool = False) -> str:
    """What the server behind a port answers, or the error's name."""
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    for attempt in range(20):
        with socket.socket(socket.AF_INET, kind) as client:
            client.settimeout(1)
            try:
                client.connect((host, port))
                client.send(b"?")
                return client.recv(100).decode().strip()
            except OSError as error:
                told = errno.errorcode.get(error.errno or 0, type(error).__name__)
        if attempt < 19:
            time.sleep(0.02)
    return told


def _reaches(inside: Member, ip: str) -> bool:
    return inside.run("busybox", "ping", "-c1", "-W1", ip).returncode == 0


def _resolved(inside: Member, lease: net.Lease, name: str) -> str:
    told = inside.run("busybox", "nslookup", "-type=a", name, lease.dns).stdout
    return told.split("Address:")[-1].strip() if told.count("Address:") > 1 else ""


def _eventually(question: Callable[[], object], deadline_s: float = 3) -> object:
    until = time.monotonic() + deadline_s
    while not (answer := question()) and time.monotonic() < until:
        time.sleep(0.01)
    return answer


def _rules() -> str:
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout


def _vmm_links() -> list[str]:
    with netlink.Netlink() as socket_:
        return sorted(link.name for link in netlink.links(socket_) if link.name.startswith("v"))


def test_members_reach_each_other_by_name_both_ways(lab: Path, member: Make) -> None:
    web, db = member(), member()
    first = _attach(lab, "web", web, aliases=("www",))
    second = _attach(lab, "db", db)
    assert _reaches(web, second.ip)
    assert _reaches(db, first.ip)
    assert _reaches(web, first.gateway)
    assert _eventually(lambda: _resolved(web, first, "db")) == second.ip
    assert _eventually(lambda: _resolved(db, second, "www")) == first.ip
    assert web.run("ip", "route", "show", "default").stdout.split()[:3] == ["default", "via", first.gateway]
    assert f"nameserver {first.gateway}" in first.resolv_conf()
    assert first.hosts_file("h", [("db", second.ip)]).splitlines()[2:] == [
        f"{first.ip}\th web www",
        f"{second.ip}\tdb",
    ]
    net.detach(lab, "bridge", "db")
    assert not _eventually(lambda: not _resolved(web, first, "db")) or _resolved(web, first, "db") == ""


def test_a_name_asked_for_ipv6_is_known_without_address_not_unknown(lab: Path, member: Make) -> None:
    """musl takes NXDOMAIN for the AAAA question as "no such name at all"."""
    web = member()
    lease = _attach(lab, "web", web)
    assert _eventually(lambda: _resolved(web, lease, "web")) == lease.ip
    told = web.run("busybox", "nslookup", "-type=aaaa", "web", lease.dns).stdout
    assert "NXDOMAIN" not in told
    assert "REFUSED" not in told


def test_ping_needs_no_right_and_no_ipv6_is_configured(lab: Path, member: Make) -> None:
    one = member()
    lease = _attach(lab, "one", one)
    code = (
        "import socket, struct, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, 1)\n"
        "s.settimeout(2); s.connect((sys.argv[1], 0)); s.send(struct.pack('!BBHHH', 8, 0, 0, 1, 1))\n"
        "print(s.recv(100)[0])\n"
    )
    told = one.run("setpriv", "--bounding-set=-net_raw", sys.executable, "-c", code, lease.gateway)
    assert told.stdout == "0\n", told.stderr  # an echo reply
    assert "inet6 fe80" not in one.run("ip", "addr").stdout


def test_networks_are_isolated_from_each_other(lab: Path, member: Make) -> None:
    networks.create(lab, "red")
    networks.create(lab, "blue")
    one, other = member(), member()
    red, blue = _attach(lab, "a", one, "red"), _attach(lab, "b", other, "blue")
    assert red.gateway != blue.gateway
    assert not _reaches(one, blue.ip)
    assert _resolved(one, red, "b") == ""
    rule = "oifname @bridges drop"
    assert rule in _rules()
    subprocess.run(["nft", "flush", "chain", "ip", "vmm", "forward"], check=True)
    assert _reaches(one, blue.ip)  # the rule was what kept them apart


def test_outside_is_reached_by_nat_and_from_internal_networks_not(lab: Path, member: Make) -> None:
    outside, inside, shut = member(), member(), member()
    with netlink.Netlink() as socket_:
        socket_.send(
            [
                netlink.veth(
                    "up0", "eth0", outside.fd, _plain_bridge(socket_, "upbr"), bytes.fromhex("0200000000aa")
                )
            ]
        )
    outside.run("ip", "addr", "add", "192.0.2.9/24", "dev", "eth0")
    outside.run("ip", "link", "set", "eth0", "up")
    networks.create(lab, "closed", internal=True)
    lease = _attach(lab, "a", inside)
    _attach(lab, "b", shut, "closed")
    assert _reaches(inside, "192.0.2.9")  # 192.0.2.9 has no route back: only NAT makes this work
    assert not _reaches(shut, "192.0.2.9")
    outside.run("ip", "route", "add", "default", "via", "192.0.2.1")
    assert not _reaches(outside, lease.ip)  # nobody routes into a network


def _plain_bridge(socket_: netlink.Netlink, name: str) -> int:
    socket_.send([netlink.bridge(name, bytes.fromhex("0200000000ab"))])
    index = netlink.index_of(name)
    socket_.send([netlink.address(index, 0xC0000201, 24), netlink.up(index)])
    return index


def test_published_ports_answer_on_the_address_they_are_bound_to(
    lab: Path, member: Make, ended: Ended
) -> None:
    web = member()
    ended += [web.serve(80), web.serve(53, "udp", udp=True)]
    wanted = net.parse_ports("8080:80") + net.parse_ports("0.0.0.0:8081:80") + net.parse_ports("5353:53/udp")
    lease = _attach(lab, "web", web, ports=wanted)
    assert _reply(8080) == "hello"
    assert _reply(8081) == "hello"
    assert _reply(8081, lease.gateway) == "hello"
    assert _reply(8080, lease.gateway) == "ECONNREFUSED"
    assert _reply(5353, udp=True) == "udp"
    other = member()
    _attach(lab, "other", other)
    told = other.run("busybox", "nc", "-w", "1", lease.gateway, "8081")
    assert told.stdout.strip() == "hello"  # hairpin: member to member through the published port
    assert other.run("busybox", "nc", "-w", "1", lease.gateway, "8080").returncode != 0


def test_range_of_ports_is_an_element_each(lab: Path, member: Make, ended: Ended) -> None:
    web = member()
    ended += [web.serve(81), web.serve(80, "first")]
    lease = _attach(lab, "web", web, ports=net.parse_ports("9000-9009:80-89"))
    assert (_reply(9001), _reply(9000)) == ("hello", "first")
    assert len(nftables.elements("ports")) == 10
    assert len(lease.ports) == 10


def test_host_port_is_chosen_where_none_is_named(lab: Path, member: Make, ended: Ended) -> None:
    web = member()
    ended.append(web.serve(80))
    (port,) = _attach(lab, "web", web, ports=net.parse_ports("80")).ports
    assert port.host > 1023
    assert _reply(port.host) == "hello"


def test_ports_are_added_and_removed_while_the_member_runs(lab: Path, member: Make, ended: Ended) -> None:
    web = member()
    ended.append(web.serve(80))
    _attach(lab, "web", web)
    assert _reply(8080) == "ECONNREFUSED"
    lease = net.publish(lab, "bridge", "web", net.parse_ports("8080:80"))
    assert lease.ports == (Port("127.0.0.1", 8080, 80),)
    assert _reply(8080) == "hello"
    net.unpublish(lab, "bridge", "web", net.parse_ports("8080:80"))
    assert _reply(8080) == "ECONNREFUSED"
    assert net.leases_of(lab, "web")[0].ports == ()


def test_members_cannot_reach_the_hosts_loopback(lab: Path, member: Make) -> None:
    """route_localnet is on for the bridge: the `early` chain must stop what a member sends to 127.0.0.1."""
    evil = member()
    lease = _attach(lab, "evil", evil)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("127.0.0.1", 7777))
        listener.settimeout(0.5)
        for words in (
            "sysctl -qw net.ipv4.conf.all.route_localnet=1",
            "ip addr del 127.0.0.1/8 dev lo",
            "ip link set lo down",
            "ip route del local 127.0.0.0/8 table local",
            f"ip route add 127.0.0.1/32 via {lease.gateway} src {lease.ip}",
        ):
            evil.run(*words.split())
        code = "from socket import *; socket(AF_INET, SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 7777))"
        send = [sys.executable, "-c", code]
        assert evil.run(*send).returncode == 0
        with pytest.raises(TimeoutError):
            listener.recv(10)
        subprocess.run(["nft", "flush", "chain", "ip", "vmm", "early"], check=True)
        assert evil.run(*send).returncode == 0
        assert listener.recv(10) == b"x"  # and the chain was what stopped it


def test_port_in_use_is_told_with_its_holder_and_leaves_nothing(lab: Path, member: Make) -> None:
    web, other = member(), member()
    _attach(lab, "web", web, ports=net.parse_ports("8080:80"))
    with pytest.raises(InUse, match=r"8080->80/tcp: web has it"):
        _attach(lab, "other", other, ports=net.parse_ports("8080:80"))
    assert net.leases_of(lab, "other") == ()
    assert len(_vmm_links()) == 2  # bridge, web
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 8090))
        listener.listen()
        with pytest.raises(InUse, match="a program of this host listens"):
            _attach(lab, "other", other, ports=net.parse_ports("8090:80"))
    with pytest.raises(InUse, match="asked for twice"):
        _attach(lab, "other", other, ports=net.parse_ports("8091:80") * 2)
    with pytest.raises(Failure, match="Cannot assign") as told:
        _attach(lab, "other", other, ports=net.parse_ports("198.51.100.7:8092:80"))
    assert told.value.hint
    _attach(lab, "other", other, ports=net.parse_ports("8092:80"))
    assert "8091" not in _rules()


def test_detached_member_leaves_nothing_and_its_address_is_free(lab: Path, member: Make) -> None:
    web = member()
    lease = _attach(lab, "web", web, ports=net.parse_ports("8080:80"))
    net.detach(lab, "bridge", "web", unlink=True)
    net.detach(lab, "bridge", "web")
    assert _vmm_links() == [lease.bridge]
    assert nftables.elements("ports") == []
    files = [
        path for path in networks.load(lab, "bridge").folder.rglob("*") if path.is_file() or path.is_symlink()
    ]
    assert {path.name for path in files} <= {"lock", "dnsmasq.pid", "dnsmasq.log", "dhcp.leases"}
    again = _attach(lab, "web", web)
    assert again.ip == lease.ip  # a name tends to keep its address
    net.detach_all(lab, "web")
    assert net.leases_of(lab, "web") == ()


def test_dead_members_lease_and_port_are_taken_over(lab: Path, member: Make, ended: Ended) -> None:
    web, heir = member(), member()
    old = _attach(lab, "web", web, ports=net.parse_ports("8080:80"))
    web.die()
    assert _eventually(lambda: not netlink.index_of(old.link))
    ended.append(heir.serve(80, "heir"))
    lease = _attach(lab, "heir", heir, ports=net.parse_ports("8080:80"), ip=old.ip)
    assert lease.ip == old.ip
    assert _reply(8080) == "heir"
    assert net.leases_of(lab, "web") == ()


def test_a_late_detach_of_the_dead_takes_nothing_from_the_heir(lab: Path, member: Make, ended: Ended) -> None:
    web, heir = member(), member()
    old = _attach(lab, "web", web, ports=net.parse_ports("8080:80"))
    web.die()
    assert _eventually(lambda: not netlink.index_of(old.link))
    ended.append(heir.serve(80, "heir"))
    _attach(lab, "heir", heir, ports=net.parse_ports("8080:80"))
    net.detach(lab, "bridge", "web")
    assert _reply(8080) == "heir"


def test_static_and_reserved_addresses(lab: Path, member: Make) -> None:
    networks.create(lab, "lan", subnet="10.77.0.0/29", reserved={"db": "10.77.0.2"})
    web, db, third = member(), member(), member()
    assert _attach(lab, "web", web, "lan", ip="10.77.0.5", mac="02:00:00:00:00:07").mac == "02:00:00:00:00:07"
    assert _attach(lab, "third", third, "lan").ip not in ("10.77.0.2", "10.77.0.5")
    assert _attach(lab, "db", db, "lan").ip == "10.77.0.2"
    late = member()
    with pytest.raises(InUse, match="web has it"):
        _attach(lab, "late", late, "lan", ip="10.77.0.5")
    for bad in ("10.77.0.1", "10.77.0.7", "10.78.0.2", "10.77.0.0"):
        with pytest.raises(Usage):
            _attach(lab, "late", late, "lan", ip=bad)
    with pytest.raises(InUse, match="db is on it already"):
        _attach(lab, "db", late, "lan")


def test_two_networks_for_one_member(lab: Path, member: Make) -> None:
    networks.create(lab, "red")
    web, peer = member(), member()
    _attach(lab, "web", web)
    second = _attach(lab, "web", web, "red", interface="eth1")
    peered = _attach(lab, "peer", peer, "red")
    assert _reaches(peer, second.ip)
    assert len(net.leases_of(lab, "web")) == 2
    net.detach(lab, "red", "web", unlink=True)
    assert "eth1" not in web.run("ip", "link").stdout
    assert not _reaches(web, peered.ip)
    with pytest.raises(NotFound, match="cannot find the network"):
        _attach(lab, "web", web, "nowhere")


def test_flushed_rules_come_back_with_the_next_member(lab: Path, member: Make, ended: Ended) -> None:
    web, db = member(), member()
    ended.append(web.serve(80))
    _attach(lab, "web", web, ports=net.parse_ports("8080:80"))
    subprocess.run(["nft", "flush", "ruleset"], check=True)
    assert _reply(8080) == "ECONNREFUSED"
    _attach(lab, "db", db)
    assert _reply(8080) == "hello"


def test_killed_name_server_comes_back_with_the_next_member(lab: Path, member: Make) -> None:
    web, db = member(), member()
    lease = _attach(lab, "web", web)
    folder = networks.load(lab, "bridge").folder
    os.kill(networks.names.running(folder), signal.SIGKILL)
    assert _eventually(lambda: not networks.names.running(folder))
    _attach(lab, "db", db)
    assert _eventually(lambda: _resolved(db, lease, "web")) == lease.ip


def test_network_is_created_listed_and_removed(lab: Path, member: Make) -> None:
    networks.create(lab, "lan", subnet="10.77.0.0/24", labels={"a": "b"})
    with pytest.raises(InUse, match="taken"):
        networks.create(lab, "lan")
    with pytest.raises(InUse, match="network lan has"):
        networks.create(lab, "lan2", subnet="10.77.0.128/25")
    for bad in ("host", "none", "../x", "", ".net", "a" * 70):
        with pytest.raises(Usage):
            networks.create(lab, bad)
    web = member()
    _attach(lab, "web", web, "lan")
    folder = networks.load(lab, "lan").folder
    pid = int((folder / "dnsmasq.pid").read_text())
    with pytest.raises(InUse, match="web on it"):
        networks.remove(lab, "lan")
    web.die()
    assert _eventually(lambda: not _vmm_links()[1:])
    networks.remove(lab, "lan")
    assert networks.listing(lab) == []
    assert not folder.exists()
    assert not networks.names.running(folder)
    assert not Path(f"/proc/{pid}/cmdline").exists() or not Path(f"/proc/{pid}/cmdline").read_bytes()
    assert _vmm_links() == []
    assert nftables.elements("bridges") == nftables.elements("same") == nftables.elements("nat") == []


def test_subnet_of_the_host_is_refused(lab: Path) -> None:
    with netlink.Netlink() as socket_:
        _plain_bridge(socket_, "upbr")
    with pytest.raises(InUse, match="device upbr has"):
        networks.create(lab, "lan", subnet="192.0.2.0/25")


def _taken(subnet: str) -> None:
    """Somebody else's interface with an address in the subnet."""
    subprocess.run(["ip", "link", "add", "other0", "type", "bridge"], check=True)
    subprocess.run(["ip", "addr", "add", subnet.replace(".0/", ".9/"), "dev", "other0"], check=True)
    subprocess.run(["ip", "link", "set", "other0", "up"], check=True)


def test_the_default_network_moves_where_somebody_took_its_subnet(
    lab: Path, member: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    old = networks.load(lab, "bridge")
    _taken(str(old.subnet))
    one, other = member(), member()
    first, second = _attach(lab, "one", one), _attach(lab, "other", other)
    moved = networks.load(lab, "bridge")
    assert not moved.subnet.meets(old.subnet)
    assert capfd.readouterr().err.count(f"moves from {old.subnet} to {moved.subnet}: other0 has") == 1
    assert moved.subnet.holds(addresses.parse(first.ip))
    assert _reaches(one, second.ip)


def test_a_network_of_the_users_does_not_move(lab: Path, member: Make) -> None:
    network = networks.create(lab, "lan")
    _taken(str(network.subnet))
    with pytest.raises(InUse, match="other0 has"):
        _attach(lab, "one", member(), "lan")
    assert networks.load(lab, "lan").subnet == network.subnet


def test_two_homes_share_a_host(lab: Path, tmp_path: Path, member: Make, ended: Ended) -> None:
    other_home = tmp_path / "other"
    web, peer = member(), member()
    ended.append(web.serve(80))
    first = _attach(lab, "web", web, ports=net.parse_ports("8080:80"))
    second = _attach(other_home, "web", peer)
    try:
        assert first.gateway != second.gateway
        assert first.bridge != second.bridge
        with pytest.raises(InUse, match=f"{first.ip} has it"):
            net.publish(other_home, "bridge", "web", net.parse_ports("8080:80"))
        assert net.repair(other_home) == []
        assert _reply(8080) == "hello"
    finally:
        net.detach(other_home, "bridge", "web", unlink=True)
        networks.remove(other_home, "bridge")
        shutil.rmtree(paths.run_dir(other_home))
    assert _reply(8080) == "hello"


def test_many_commands_at_once_never_share_an_address(lab: Path, member: Make) -> None:
    inside = [member() for _ in range(8)]
    code = (
        "import sys, os; from pathlib import Path; from host.linux import net\n"
        "home, name, pid = Path(sys.argv[1]), sys.argv[2], sys.argv[3]\n"
        "fd = os.open(f'/proc/{pid}/ns/net', os.O_RDONLY)\n"
        "print(net.attach(home, 'bridge', name, fd, ports=net.parse_ports('80')).ip)\n"
    )
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(lab), f"c{at}", str(one.process.pid)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for at, one in enumerate(inside)
    ]
    told = [one.communicate(timeout=60)[0].strip() for one in running]
    assert [one.returncode for one in running] == [0] * 8
    assert len(set(told)) == 8
    assert all(_reaches(inside[0], ip) for ip in told)
    assert len(networks.load(lab, "bridge").leases.all()) == 8


def test_killed_commands_leave_nothing_after_repair(lab: Path, member: Make) -> None:
    """kill -9 at random moments of attach and detach, 30 rounds; then `repair` cleans up."""
    _attach(lab, "first", member())
    dice = random.Random(5)
    for turn in range(30):
        inside = member()
        child = os.fork()
        if child == 0:
            try:
                net.attach(lab, "bridge", f"c{turn}", inside.fd, ports=net.parse_ports(f"{9000 + turn}:80"))
                net.detach(lab, "bridge", f"c{turn}", unlink=True)
            finally:
                os._exit(0)
        time.sleep(dice.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        if turn % 3:
            inside.die()
    net.repair(lab)
    for turn in range(30):
        net.detach(lab, "bridge", f"c{turn}", unlink=True)
    assert net.repair(lab) == []
    network = networks.load(lab, "bridge")
    assert [lease.member for lease in network.leases.all()] == ["first"]
    assert nftables.elements("ports") == []
    assert _eventually(lambda: len(_vmm_links()) == 2), _vmm_links()
    assert networks.is_up(network)
    assert os.listdir(network.folder / "names") == [network.leases.all()[0].ip]
    _attach(lab, "last", member())


def test_repair_removes_what_rm_left_when_it_was_killed(lab: Path, member: Make) -> None:
    networks.create(lab, "lan")
    web = member()
    lease = _attach(lab, "web", web, "lan")
    web.die()
    shutil.rmtree(networks.folder_of(lab, "lan"))  # record gone, all else stands
    assert net.repair(lab) == ["what was left of the network lan"]
    assert not netlink.index_of(lease.bridge)
    assert net.repair(lab) == []


def test_networks_of_a_deleted_home_are_removed_by_anybodys_repair(
    lab: Path, tmp_path: Path, member: Make
) -> None:
    dead = tmp_path / "dead"
    one = member()
    lease = _attach(dead, "one", one)
    folder = networks.load(dead, "bridge").folder
    server = networks.names.running(folder)
    shutil.rmtree(dead)
    shutil.rmtree(paths.run_dir(dead))
    net.repair(lab)
    assert netlink.index_of(lease.bridge)  # somebody is on it
    one.die()
    assert _eventually(lambda: not netlink.index_of(lease.link))
    told = net.repair(lab)
    assert any(lease.bridge in line for line in told)
    assert any(str(server) in line for line in told)
    assert not netlink.index_of(lease.bridge)
    assert net.repair(lab) == []


def test_server_that_outlived_its_bridge_gives_its_address_back(lab: Path, member: Make) -> None:
    networks.create(lab, "lan", subnet="10.77.0.0/24")
    first = _attach(lab, "a", member(), "lan")
    server = networks.names.running(networks.load(lab, "lan").folder)
    with netlink.Netlink() as socket_:
        socket_.send([netlink.delete(netlink.index_of(first.bridge))])
    shutil.rmtree(networks.folder_of(lab, "lan"))
    shutil.rmtree(paths.run_dir(lab) / ".net" / "lan")  # nobody knows the server any more
    networks.create(lab, "other", subnet="10.77.0.0/24")
    web = member()
    second = _attach(lab, "b", web, "other")
    assert _eventually(lambda: _resolved(web, second, "b")) == second.ip
    assert networks.names.running(networks.load(lab, "other").folder) != server


def test_attach_that_fails_half_way_undoes_itself(
    lab: Path, member: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    _attach(lab, "first", member())
    before = _vmm_links()
    for step in ("_wire", "publish_on"):

        def fail(*_: object, **__: object) -> None:
            raise OSError(errno.EIO, "broken")

        with monkeypatch.context() as patch:
            patch.setattr(members, step, fail)
            with pytest.raises(OSError, match="broken"):
                _attach(lab, "web", member(), ports=net.parse_ports("8080:80"))
        assert net.leases_of(lab, "web") == ()
        assert _vmm_links() == before


def test_plan_says_what_is_done_by_hand(lab: Path) -> None:
    network = networks.create(lab, "lan", subnet="10.77.0.0/24")
    lines = networks.plan_up(network)
    assert lines[0] == f"ip link add {network.bridge} type bridge"
    assert f"ip addr add 10.77.0.1/24 dev {network.bridge}" in lines
    assert lines[-1].startswith("dnsmasq ")
    for line in lines:
        if not line.startswith(("dnsmasq", "sysctl -w net.ipv6")):
            subprocess.run(["sh", "-c", line], check=True, capture_output=True)
    assert nftables.has(nftables.Element("nat", nftables.name_key(network.bridge)))


def test_a_place_made_by_hand_is_the_same(lab: Path, member: Make, ended: Ended) -> None:
    first, second = member(), member()
    lease = _attach(lab, "web", first, ports=net.parse_ports("8080:80") + net.parse_ports("0.0.0.0:8081:80"))
    lines = net.by_hand(lease, second.process.pid)
    first.die()
    assert _eventually(lambda: not netlink.index_of(lease.link))
    net.detach(lab, "bridge", "web")
    for line in lines:
        subprocess.run(["sh", "-c", line], check=True, capture_output=True)
    ended.append(second.serve(80))
    assert (_reply(8080), _reply(8081)) == ("hello", "hello")
    assert _reaches(second, lease.gateway)


@pytest.mark.timing_sensitive
def test_member_joins_in_a_few_milliseconds(lab: Path, member: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    _attach(lab, "first", member())
    took_ms = []

    def no_program(*_: object, **__: object) -> None:
        raise AssertionError("a program was started on the path of every start")

    monkeypatch.setattr(networks.nftables, "install", no_program)
    monkeypatch.setattr(networks.names, "start", no_program)
    for turn in range(11):
        inside = member()
        began = time.monotonic()
        _attach(lab, f"c{turn}", inside, ports=net.parse_ports("80"))
        took_ms.append((time.monotonic() - began) * 1e3)
    assert sorted(took_ms)[5] < 40  # 2 when nothing else runs
