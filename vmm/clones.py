"""Starting a machine as a clone of a template: its disk, QEMU's arguments, and an identity of its own."""

from __future__ import annotations

import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from host import paths
from host.errors import BadData, DeadlinePassed, Failure, InUse, NotFound, WrongState
from vmm import admission, launch, process, state_pipe, templates
from vmm.qemu_argv import hostfwd
from vmm.spec import MachineSpec, replace
from vmm.templates import Template

if TYPE_CHECKING:
    from host.edges import Edges
    from vmm.boot import Boot
    from vmm.channel import Channel
    from vmm.monitor import Monitor
    from vmm.qemu_driver import QemuDriver

_RENEW_S = 20.0
_LOAD_S = 20.0
_LAST_BREATH_S = 2.0
# Frozen by vmm.freeze: the pid of the sshd whose own pid file we put aside until it has begun anew.
SSHD_PID = "/run/vmm-sshd.pid"
SSHD_PIDFILE = "/run/sshd.pid"

# What no clone can be given anew: `vmm explain` lists it.
KEPT = (
    "memory as it was frozen: stack and heap addresses (ASLR) of programs that ran, the kernel's own layout",
    "secrets that a program drew before: stack canaries, TLS session keys, seeds of its own generators",
    "the boot id (/proc/sys/kernel/random/boot_id), once something had read it",
    "uptime, process ids, kernel log and journal up to the moment of freezing",
    "the MAC and the address in QEMU's own user network, where each machine is alone",
    "UUIDs of file systems, and files that the image's services wrote at their first start",
)


class StateRefused(Failure):
    """QEMU ended, or said so, while it read a template's devices."""


def boot(
    driver: QemuDriver, accel: str, edges: Edges, dies_with_us: bool, boot_timeout_s: float
) -> Boot | None:
    """Start the driver's machine as a clone of its template; None where it must boot for real.

    Only a machine that never ran becomes one: a frozen memory does not know what its disk holds by now.
    """
    spec = driver.spec
    if (driver.folder / "serial.log").exists():
        edges.way = f"a boot by {spec.boot}: it ran before, and its disk is no longer what a template knows"
        return None
    template, key = (_named(spec), "") if spec.template != "auto" else (None, _key(spec, accel, edges))
    if not (template or key):
        return None
    claimed = _claimed(driver, template, key, accel, edges, dies_with_us)
    if claimed is not None:
        return claimed
    template = template or _template_for(spec, accel, key, boot_timeout_s, edges)
    if template is None:
        return None
    edges.way = edges.way or f"a clone of the template {template.name}"
    os.utime(template.folder)  # which of them was unused the longest goes first
    disk = Path(spec.disks[0].path)
    pristine = disk.read_bytes() if template.automatic else b""
    lay_disk(template, disk, alone=template.automatic)
    try:
        return cloned(driver, accel, edges, dies_with_us, template, boot_timeout_s)
    except StateRefused as refusal:
        if not template.automatic:
            hint = f"vmm template rm {template.name}, then vmm template create"
            raise WrongState("cannot start from the template", template.name, str(refusal), hint) from None
        _say(f"QEMU does not take the template's state, booting instead: {refusal}")
        templates.remove(paths.home(), template.name)
        disk.write_bytes(pristine)
        edges.way = f"a boot by {spec.boot}: QEMU did not take the state of its template"
        for edge in ("t2", "t3"):
            edges.stamps_ns.pop(edge, None)
        return None


def _claimed(
    driver: QemuDriver, template: Template | None, key: str, accel: str, edges: Edges, dies_with_us: bool
) -> Boot | None:
    """A clone that waited, paused, in a pool, where there is one of this machine's hardware."""
    home, named = paths.home(), template is not None
    if not (template.folder / templates.POOL if template else templates.pool_file(home, key)).exists():
        return None
    from vmm import pool, refill

    template = template or pool.serving(home, key)
    if template is None or (named and not pool.serves(template, driver.spec, accel)):
        return None
    booting = pool.claim(driver, template, edges, dies_with_us)
    if booting is None:
        refill.start(home, template.name)
        edges.way = f"a clone of a template, as the pool of {template.name} was empty"
        return None
    edges.way = f"a paused clone of the pool of {template.name}"
    booting.once_up = partial(refill.start, home, template.name)
    admission.hand_over(booting)
    if driver.spec.command_mode:
        _publish(booting, driver)
    return booting


def _publish(booting: Boot, driver: QemuDriver) -> None:
    """Forward the ports of a machine in command mode: QEMU was started without them."""
    assert booting.monitor is not None
    try:
        publish(booting.monitor, driver.spec, driver.netdev(0))
    except BaseException:
        booting.close()
        driver.kill()
        driver.release()
        raise


def cloned(
    driver: QemuDriver,
    accel: str,
    edges: Edges,
    dies_with_us: bool,
    template: Template,
    boot_timeout_s: float,
) -> Boot:
    """The driver's machine as a clone that runs, still as it was frozen. Raises StateRefused, Failure."""
    spec = driver.spec
    how = launch.here(driver.run, driver.folder, accel, spec.arch)
    how = replace(how, memory_file=str(template.memory), memory_private=True, incoming=True)
    how = replace(how, ports=template.ports, state=str(template.state))
    driver.spec = unpublished(spec)
    try:
        started = admission.boot(
            driver.run.parent, boot_timeout_s, lambda: driver.boot(accel, edges, dies_with_us, how)
        )
    finally:
        driver.spec = spec
    started.cloned = True
    assert started.monitor is not None
    try:
        _load_state(started.monitor, template)
    except BaseException as failure:
        started.close()
        killed = isinstance(failure, StateRefused) and _was_killed(started.pid)
        driver.kill()
        driver.release()
        if killed:  # the state is not to blame
            from vmm import diagnosis

            raise diagnosis.ended(driver.folder.name, driver.folder, -signal.SIGKILL) from None
        raise
    return started


def _was_killed(pid: int) -> bool:
    """Whether our QEMU ended by SIGKILL, out of memory for example; it had hung up."""
    try:
        return process.wait_gone(pid, _LAST_BREATH_S) == -signal.SIGKILL
    except DeadlinePassed:
        return False


def unpublished(spec: MachineSpec) -> MachineSpec:
    """The spec without its forwards: they are opened when the clone has an identity of its own."""
    if spec.command_mode:
        return spec
    return replace(spec, nics=tuple(replace(nic, forwards=()) for nic in spec.nics))


def _named(spec: MachineSpec) -> Template | None:
    """The template that the user named; what is wrong with it is an error, not a reason to boot."""
    template = templates.load(paths.home(), spec.template)
    broken = templates.damage(template)
    if broken:  # its memory has another time while vmm.holes digs, or since one that did so was killed
        from vmm import holes

        with templates.locked(paths.home(), template.name):
            holes.settle(template.memory)
            broken = templates.damage(template)
    if broken:
        if (template.folder / templates.POOL).exists():
            from vmm import pool

            pool.end(template)
        hint = f"vmm template rm {spec.template}, then vmm template create"
        raise WrongState("cannot start from the template", spec.template, broken, hint)
    return template


def _load_state(monitor: Monitor, template: Template) -> None:
    """Let QEMU read the devices' state; the state itself says that the guest runs on. Raises StateRefused."""
    try:
        if not monitor.settle(_LOAD_S):
            _hand_over(monitor, template)
        monitor.await_running(_LOAD_S)
    except (WrongState, DeadlinePassed) as ended:  # QEMU hung up: a state that it cannot read ends it
        raise StateRefused("cannot load the state of the template", template.name, ended.why) from None


def _hand_over(monitor: Monitor, template: Template) -> None:
    """Give the state to a QEMU that does not have it from its start: libvirt's."""
    state = state_pipe.reader(template.state)
    try:
        capabilities, incoming = launch.loading("fd:state")
        monitor.execute_all((capabilities, ("getfd", {"fdname": "state"}), incoming), state)
    finally:
        os.close(state)


def _key(spec: MachineSpec, accel: str, edges: Edges) -> str:
    """The key of the template that `vmm run` keeps for such machines; empty: it must boot."""
    if refused := templates.why_not_automatic(spec):
        edges.way = f"a boot by {spec.boot}: {refused}"
        return ""
    return templates.key(spec, accel, templates.backing(Path(spec.disks[0].path)))


def _template_for(
    spec: MachineSpec, accel: str, key: str, boot_timeout_s: float, edges: Edges
) -> Template | None:
    """The template of that key, made now where there is none yet; None: the machine must boot."""
    home, disk = paths.home(), Path(spec.disks[0].path)
    found = _sound(home, key)
    if found is not None:
        return found
    from vmm import holes

    admission.let_go()  # who makes the template must have a place
    began_ns = time.monotonic_ns()
    with templates.locked(home, key):
        holes.settle(templates.memory_dir(home) / f"{key}.memory")
        found = _sound(home, key, tell=True)  # another command may have made it while we waited
        found = found or _made(home, spec, accel, key, disk, boot_timeout_s, edges)
    edges.freezing_ns = time.monotonic_ns() - began_ns
    return found


def _made(
    home: Path, spec: MachineSpec, accel: str, key: str, disk: Path, boot_timeout_s: float, edges: Edges
) -> Template | None:
    from vmm import freeze, template_limit

    _say("first run of this image with these devices: freezing a template, later runs start from it")
    try:
        made = freeze.automatic(home, spec, accel, key, disk, boot_timeout_s)
    except Failure as error:
        _say(f"no template, booting instead: {error}")
        edges.way = f"a boot by {spec.boot}: no template could be made"
        return None
    for gone in template_limit.trim(home, key):
        _say(f"removed the template {gone}")
    edges.way = f"a clone of the template {key}, which was frozen first, in {made.took_s:.1f} s"
    return made


def _say(line: str) -> None:
    sys.stderr.write(f"vmm: {line}\n")


def _sound(home: Path, name: str, tell: bool = False) -> Template | None:
    try:
        found = templates.load(home, name)
    except (NotFound, BadData, KeyError):
        return None
    broken = templates.damage(found)
    if broken:
        if tell:
            _say(f"the template {name} is made anew: {broken}")
        return None
    return found


def lay_disk(template: Template, disk: Path, alone: bool) -> None:
    """The machine's disk: a layer over the template's, which cannot be removed before its machines.

    To stand `alone` it is a copy of what the guest had written, which is little in command mode.
    """
    disk.unlink(missing_ok=True)
    disk.write_bytes((template.disk if alone else template.overlay).read_bytes())


def renew(channel: Channel, spec: MachineSpec) -> None:
    """Post what makes the clone a machine of its own, before anything can run in it."""
    channel.reseed()
    channel.set_time()
    if spec.keep_identity:
        channel.settle(_RENEW_S)
        return
    channel.identity(hostname=spec.hostname)
    if (
        not spec.command_mode
    ):  # else nothing has run yet, and nothing of the image's was made into an identity
        channel.put("/etc/machine-id", f"{os.urandom(16).hex()}\n".encode(), 0o444)
        channel.put("/etc/hostname", f"{spec.hostname}\n".encode())
        _renew_sshd(channel, spec.hostname)
        channel.settle(_RENEW_S)


def open_to_host(monitor: Monitor, spec: MachineSpec, netdev: str = "net0") -> None:
    """Forward the ports of a clone in system mode: not before its sshd has the clone's own key.

    `netdev` is its driver's name of the first card's backend.
    """
    if not spec.command_mode:
        publish(monitor, spec, netdev)


def publish(monitor: Monitor, spec: MachineSpec, netdev: str) -> None:
    """Open the spec's forwards on the first card of a running machine. Raises InUse."""
    for nic in spec.nics:
        for one in nic.forwards:
            words = f"hostfwd_add {netdev} {hostfwd(one.protocol, one.host_ip, one.host, one.guest)}"
            said = str(monitor.execute("human-monitor-command", {"command-line": words})).strip()
            if said:
                raise InUse("cannot publish the port", f"{one.host_ip}:{one.host}", said)


def _renew_sshd(channel: Channel, hostname: str) -> None:
    """A host key of its own, and sshd begun anew with it: nobody must meet the frozen one.

    sshd takes its pid file away at SIGHUP and writes it again once it listens (sshd(8), server_listen before
    the file): a file that names no process until then is how we know.
    """
    put_host_key(channel, hostname)
    if not lives(channel, SSHD_PID):
        return  # the image has no sshd, or it does not run: the key waits for it
    channel.put(SSHD_PIDFILE, b"0\n")
    channel.signal_pidfile(SSHD_PID, signal.SIGHUP)
    channel.settle(_RENEW_S)
    deadline = time.monotonic() + _RENEW_S
    while not lives(channel, SSHD_PIDFILE):
        if time.monotonic() > deadline:
            raise DeadlinePassed("sshd did not begin anew", hostname, f"within {_RENEW_S:g} s")
        time.sleep(0.01)


def lives(channel: Channel, pidfile: str) -> bool:
    """Whether the pid file in the guest names a process that lives."""
    channel.signal_pidfile(pidfile, 0)
    try:
        channel.settle(_RENEW_S)
    except DeadlinePassed:
        raise
    except Failure:
        return False
    return True


def put_host_key(channel: Channel, hostname: str) -> None:
    """Post a new host key, made here, where it takes milliseconds."""
    import tempfile

    from host import commands

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "key")
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"root@{hostname}", "-f", str(path)]
        commands.run(words, "cannot make the machine's host key", timeout_s=30)
        key, public = path.read_bytes(), path.with_suffix(".pub").read_bytes()
    channel.put("/etc/ssh/ssh_host_ed25519_key", key, 0o600)
    channel.put("/etc/ssh/ssh_host_ed25519_key.pub", public)
