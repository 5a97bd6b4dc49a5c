"""From a spec to a guest that can be spoken to: the driver's start, the greeting, what it is told first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from host.edges import Edges
from host.exec_request import ExecRequest
from host.stdio import Stdio
from vmm import admission
from vmm.admission import boot_timeout_s
from vmm.spec import MachineSpec, check

if TYPE_CHECKING:
    from vmm.boot import Boot
    from vmm.channel import Channel
    from vmm.machine import Machine

# QEMU's user network answers names at this address (slirp); a guest without a DHCP client must be told.
USER_NETWORK_DNS = b"nameserver 10.0.2.3\n"
# sshd_config(5), AuthorizedKeysFile: the second file of its default is ours, the first one the user's.
AUTHORIZED = "/root/.ssh/authorized_keys2"


# In the folder of a machine that was cloned while it stood still, until its first start: its machine-id.
RENEW = "renew"


def boot(machine: Machine, edges: Edges, dies_with_us: bool) -> Boot:
    """Start the machine's QEMU, as a clone where it can be one; the Boot that watches it come up."""
    check(machine.spec)
    edges.mark("t1")
    accel = machine.accelerator()
    if machine.spec.template:
        from vmm import clones

        cloned = clones.boot(machine.driver, accel, edges, dies_with_us, boot_timeout_s())
        if cloned is not None:
            return cloned
    edges.way = edges.way or f"a boot by {machine.spec.boot}"
    start = machine.driver.boot
    return admission.boot(machine.run_dir.parent, boot_timeout_s(), lambda: start(accel, edges, dies_with_us))


def helper(machine: Machine, booting: Boot) -> Channel:
    """The greeted channel; a clone is renewed before anything else can run in it."""
    channel = told(machine, booting)
    booting.await_helper(boot_timeout_s())
    return channel


def told(machine: Machine, booting: Boot) -> Channel:
    """The channel, on which the guest was told all that it must know before a command.

    In a clone this is still on its way, greeting and all: the guest is there, what it is told first arrives
    first, and one turn of a guest whose code is cold costs milliseconds.
    """
    channel = _renewed(machine, booting) if booting.cloned else booting.await_helper(boot_timeout_s())
    _tell(machine, channel, booting.cloned)
    return channel


def tell_name_server(channel: Channel, spec: MachineSpec) -> None:
    """Write where QEMU's user network answers names; a template has that from before it was frozen."""
    if any(nic.kind == "user" for nic in spec.nics):
        channel.put("/etc/resolv.conf", USER_NETWORK_DNS)


def again(machine: Machine) -> None:
    """See the guest up once more after its reset button was pressed, and its command begun anew."""
    (machine.run_dir / "ready").unlink(missing_ok=True)
    with machine.channel(boot_timeout_s()) as channel:
        _tell(machine, channel)
        if machine.spec.command_mode:
            channel.start_main(main_request(machine.spec))


def _tell(machine: Machine, channel: Channel, cloned: bool = False) -> None:
    spec = machine.spec
    if not spec.command_mode:
        if not (cloned and _has_its_templates_key(spec)):
            _let_us_in(machine, channel)
        _renew_identity(machine, channel)
    elif not cloned:
        tell_name_server(channel, spec)
    if spec.command_mode and any(nic.kind in ("network", "libvirt") for nic in spec.nics):
        from vmm import networking

        names = networking.resolv_conf(spec, machine.folder.name, machine.run_dir)
        channel.put("/etc/resolv.conf", names.encode())


def _renewed(machine: Machine, booting: Boot) -> Channel:
    from vmm import clones

    assert booting.channel is not None
    assert booting.monitor is not None
    booting.channel.greet()
    clones.renew(booting.channel, machine.spec)
    clones.open_to_host(booting.monitor, machine.spec, machine.driver.netdev(0))
    return booting.channel


def _renew_identity(machine: Machine, channel: Channel) -> None:
    """What a clone of a machine that stood still is told at its first start."""
    if (machine.folder / RENEW).exists():
        from vmm import cloned

        cloned.renew(channel, machine.folder, machine.spec)


def _has_its_templates_key(spec: MachineSpec) -> bool:
    from vmm import templates

    return spec.keep_identity and templates.login_key(spec.template).exists()


def _let_us_in(machine: Machine, channel: Channel) -> None:
    """Give root our key for this machine, where it was made with one."""
    public = machine.folder / "ssh_key.pub"
    if public.is_file():
        channel.put(AUTHORIZED, public.read_bytes(), 0o600)
        channel.settle(boot_timeout_s())


def note_address(machine: Machine) -> None:
    """Keep where the guest's sshd is reached from this host, if anything leads there."""
    spec = machine.spec
    if spec.command_mode:
        return
    if spec.reaches_ssh and any(nic.kind == "user" for nic in spec.nics):
        from vmm import forwards, ssh

        ssh.note_address(machine.run_dir, "127.0.0.1", forwards.ssh_port(machine.driver))
    elif any(nic.kind in ("network", "libvirt") for nic in spec.nics):
        from vmm import networking, ssh

        if address := networking.address(spec, machine.folder.name, machine.run_dir):
            ssh.note_address(machine.run_dir, address, 22)


def note_ready(machine: Machine) -> None:
    """Keep that a clone of a system is ready: no template is frozen before its sshd listens, and the clone's
    ports are open only once its own does."""
    from vmm import readiness, ssh

    if not machine.spec.command_mode and ssh.address(machine.run_dir):
        readiness.remember(machine.run_dir, "ssh-ready")


def main_request(spec: MachineSpec, stdio: Stdio | None = None) -> ExecRequest:
    """The command that the machine lives for; with our terminal and stdin where we stay."""
    command = spec.command
    request = ExecRequest(command.argv, command.env, command.cwd, command.user)
    return request._replace(tty=stdio.tty, interactive=stdio.interactive) if stdio else request
