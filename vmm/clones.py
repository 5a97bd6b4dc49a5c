"""Starting a machine as a clone of a template: its disk, QEMU's arguments, and an identity of its own."""

from __future__ import annotations

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from host import paths
from host.errors import BadData, Failure, InUse, NotFound, WrongState
from vmm import launch, templates
from vmm.qemu_argv import hostfwd
from vmm.spec import MachineSpec
from vmm.templates import Template

if TYPE_CHECKING:
    from host.edges import Edges
    from vmm.boot import Boot
    from vmm.channel import Channel
    from vmm.monitor import Monitor
    from vmm.qemu_driver import QemuDriver

_RENEW_S = 20.0


def boot(
    driver: QemuDriver, accel: str, edges: Edges, dies_with_us: bool, boot_timeout_s: float
) -> Boot | None:
    """Start the driver's machine as a clone of its template; None where it must boot for real.

    Only a machine that never ran becomes one: a frozen memory does not know what its disk holds by now.
    """
    spec = driver.spec
    if (driver.folder / "serial.log").exists():
        return None
    template = _named(spec) if spec.template != "auto" else None
    template = template or _template_for(spec, accel, boot_timeout_s)
    if template is None:
        return None
    _lay_disk(template, Path(driver.spec.disks[0].path))
    how = launch.here(driver.run, driver.folder, accel, driver.spec.arch)
    how = replace(how, memory_file=str(template.memory), memory_private=True, incoming=True)
    driver.spec = unpublished(spec)
    try:
        started = driver.boot(accel, edges, dies_with_us, how)
    finally:
        driver.spec = spec
    started.cloned = True
    assert started.monitor is not None
    try:
        _load_state(started.monitor, template)
    except BaseException:
        started.close()
        driver.kill()
        driver.release()
        raise
    return started


def unpublished(spec: MachineSpec) -> MachineSpec:
    """The spec without its forwards: they are opened when the clone has an identity of its own."""
    if spec.command_mode:
        return spec
    return replace(spec, nics=tuple(replace(nic, forwards=()) for nic in spec.nics))


def _named(spec: MachineSpec) -> Template | None:
    """The template that the user named; what is wrong with it is an error, not a reason to boot."""
    template = templates.load(paths.home(), spec.template)
    broken = templates.damage(template)
    if broken:
        hint = f"vmm template rm {spec.template}, then vmm template create"
        raise WrongState("cannot start from the template", spec.template, broken, hint)
    return template


def _load_state(monitor: Monitor, template: Template) -> None:
    """Let QEMU read the devices' state; the state itself says that the guest runs on."""
    state = os.open(template.state, os.O_RDONLY | os.O_CLOEXEC)
    try:
        monitor.execute("migrate-set-capabilities", {"capabilities": [templates.LEAVE_MEMORY_OUT]})
        monitor.execute("getfd", {"fdname": "state"}, fd=state)
        monitor.execute("migrate-incoming", {"uri": "fd:state"})
    finally:
        os.close(state)


def _template_for(spec: MachineSpec, accel: str, boot_timeout_s: float) -> Template | None:
    """The template that this machine may start from, made now where there is none yet; None: it must boot."""
    if spec.template != "auto" or templates.why_not_automatic(spec):
        return None
    home, disk = paths.home(), Path(spec.disks[0].path)
    key = templates.key(spec, accel, templates.backing(disk))
    found = _sound(home, key)
    if found is not None:
        return found
    with templates.locked(home, key):
        found = _sound(home, key)  # another command may have made it while we waited
        return found or _made(home, spec, accel, key, disk, boot_timeout_s)


def _made(
    home: Path, spec: MachineSpec, accel: str, key: str, disk: Path, boot_timeout_s: float
) -> Template | None:
    from vmm import freeze

    _say("first run of this image with these devices: freezing a template, later runs start from it")
    try:
        return freeze.automatic(home, spec, accel, key, disk, boot_timeout_s)
    except Failure as error:
        _say(f"no template, booting instead: {error}")
        return None


def _say(line: str) -> None:
    sys.stderr.write(f"vmm: {line}\n")


def _sound(home: Path, name: str) -> Template | None:
    try:
        found = templates.load(home, name)
    except (NotFound, BadData, KeyError):
        return None
    broken = templates.damage(found)
    if broken:
        _say(f"the template {name} is made anew: {broken}")
        return None
    return found


def _lay_disk(template: Template, disk: Path) -> None:
    """The machine's disk: what the guest had written, small, is copied, so that it stands on no template.

    Of a template with a name it is a layer; such a template cannot be removed before its machines.
    """
    disk.unlink(missing_ok=True)
    disk.write_bytes((template.disk if template.automatic else template.overlay).read_bytes())


def renew(channel: Channel, spec: MachineSpec) -> None:
    """Post what makes the clone a machine of its own, before anything can run in it."""
    channel.reseed()
    channel.set_time()
    channel.identity(hostname=spec.hostname)
    if (
        not spec.command_mode
    ):  # else nothing has run yet, and nothing of the image's was made into an identity
        channel.put("/etc/machine-id", f"{os.urandom(16).hex()}\n".encode(), 0o444)
        channel.put("/etc/hostname", f"{spec.hostname}\n".encode())
        _renew_sshd(channel, spec.hostname)
        channel.settle(_RENEW_S)


def open_to_host(monitor: Monitor, spec: MachineSpec) -> None:
    """Forward the ports of a clone in system mode: not before its sshd has the clone's own key."""
    for nic in () if spec.command_mode else spec.nics:
        for one in nic.forwards:
            words = f"hostfwd_add net0 {hostfwd(one.protocol, one.host_ip, one.host, one.guest)}"
            said = str(monitor.execute("human-monitor-command", {"command-line": words})).strip()
            if said:
                raise InUse("cannot publish the port", f"{one.host_ip}:{one.host}", said)


def _renew_sshd(channel: Channel, hostname: str) -> None:
    """A host key of its own, made here, where it takes milliseconds; sshd reads it anew on SIGHUP."""
    import tempfile

    from host import commands

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "key")
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"root@{hostname}", "-f", str(path)]
        commands.run(words, "cannot make the machine's host key", timeout_s=30)
        key, public = path.read_bytes(), path.with_suffix(".pub").read_bytes()
    channel.put("/etc/ssh/ssh_host_ed25519_key", key, 0o600)
    channel.put("/etc/ssh/ssh_host_ed25519_key.pub", public)
    channel.signal_pidfile("/run/sshd.pid", signal.SIGHUP)
