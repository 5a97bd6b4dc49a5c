"""Making a template: boot the machine on shared file memory, and freeze it where its command would begin."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from host import commands
from host.edges import Edges
from host.errors import DeadlinePassed, Failure, InUse, Unsupported, from_os_error
from host.exec_request import ExecRequest
from host.stdio import Stdio
from vmm import (
    admission,
    bringup,
    clones,
    forwards,
    homeless,
    launch,
    ports,
    readiness,
    state_pipe,
    stream,
    templates,
    usage,
)
from vmm.boot import Boot
from vmm.channel import Channel
from vmm.frames import Hello
from vmm.monitor import Monitor
from vmm.spec import Command, MachineSpec, replace
from vmm.templates import Template

_SAVE_S = 60.0
_SETTLE_S = 0.2
# A guest that works less than that part of a processor for so long has booted.
_AT_REST = 0.15
_REST_S = 0.3
_REST_WITHIN_S = 30.0
# One second after its drivers began, Linux stops all processors to change over to the TSC, and tells the
# console (tsc_refine_calibration_work): in every clone of a machine frozen shortly before.
_CLOCK_CHOSEN_S = 1.1
# Every clone is given an ed25519 key of its own; of the other kinds two clones would have the same.
FORGET_KEYS = "rm -f /etc/ssh/ssh_host_rsa_key* /etc/ssh/ssh_host_ecdsa_key* /etc/ssh/ssh_host_dsa_key*"


def automatic(
    home: Path, spec: MachineSpec, accel: str, key: str, pristine: Path, boot_timeout_s: float
) -> Template:
    """The template for machines like `spec`, made from its still empty disk; its name is its key.

    The caller holds the template's lock. Raises Failure where the machine does not boot or memory runs out.
    """

    def prepare(folder: Path) -> MachineSpec:
        disk = folder / "disk.qcow2"
        shutil.copyfile(pristine, disk)
        return replace(spec, disks=(replace(spec.disks[0], path=str(disk)),))

    return _made(home, key, key, prepare, accel, "", boot_timeout_s)


def named(
    home: Path,
    name: str,
    prepare: Callable[[Path], MachineSpec],
    image: str,
    boot_timeout_s: float,
) -> Template:
    """A template under a name of the user's: `prepare` makes the machine's files in the template's folder.

    A machine in system mode is frozen when its sshd answers and it has come to rest. Raises InUse for a name
    that is taken, Unsupported for a machine that cannot be frozen.
    """
    with templates.locked(home, name):
        if (templates.root(home) / name / templates.RECORD).exists():
            raise InUse("cannot make the template", repr(name), "there is one", f"vmm template rm {name}")
        return _made(home, name, "", prepare, "", image, boot_timeout_s)


def _made(
    home: Path,
    name: str,
    key: str,
    prepare: Callable[[Path], MachineSpec],
    accel: str,
    image: str,
    boot_timeout_s: float,
) -> Template:
    from vmm.machine import Machine

    began = time.monotonic()
    with placed(home, name) as (folder, memory):
        spec = prepare(folder)
        refused = templates.why_not(spec)
        if refused:
            raise Unsupported("cannot freeze this machine", why=refused)
        accel = accel or Machine(folder, folder, spec).accelerator()
        plain = replace(templates.neutral(spec, spec.disks[0].path), accel=accel)
        up = _freeze(home, plain, accel, folder, memory, boot_timeout_s, spec.command)
        return finish(plain, key, folder, memory, image, began, up, ports.frozen(plain))


@contextlib.contextmanager
def placed(home: Path, name: str) -> Iterator[tuple[Path, Path]]:
    """An empty folder for a template and the path of its memory; a failure inside leaves neither."""
    folder, memory = templates.root(home) / name, templates.memory_dir(home) / f"{name}.memory"
    shutil.rmtree(folder, ignore_errors=True)
    memory.unlink(missing_ok=True)
    folder.mkdir(parents=True)
    homeless.note(home)
    try:
        yield folder, memory
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        memory.unlink(missing_ok=True)
        raise


def _freeze(
    home: Path,
    spec: MachineSpec,
    accel: str,
    folder: Path,
    memory: Path,
    boot_timeout_s: float,
    likely: Command,
) -> float:
    """Boot and freeze; when the machine had booted (monotonic)."""
    from vmm.machine import Machine

    reserve(spec.memory_bytes, memory)
    run = templates.builder_run(home, folder.name)
    driver = Machine(folder, run, spec).driver
    how = replace(
        launch.here(run, folder, accel, spec.arch), memory_file=str(memory), ports=ports.frozen(spec)
    )
    try:
        boot = admission.boot(run.parent, boot_timeout_s, lambda: driver.boot(accel, Edges(), True, how))
        try:
            return _save(boot, folder / "state", boot_timeout_s, spec, likely)
        finally:
            boot.close()
    finally:
        driver.kill()
        driver.release()


def reserve(size_bytes: int, memory: Path) -> None:
    """Make the memory's file; refuse where it could not be filled: a write there would be SIGBUS."""
    what = "cannot make a template's memory"
    fs = os.statvfs(memory.parent)
    if fs.f_bavail * fs.f_frsize < size_bytes:
        hint = "vmm template rm, or --boot microvm starts without a template"
        raise Failure(what, str(memory), f"it needs {size_bytes >> 20} MiB, less is free", hint)
    try:
        fd = os.open(memory, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.truncate(fd, size_bytes)
        os.close(fd)
    except OSError as error:
        raise from_os_error(what, error, str(memory)) from None


def _save(boot: Boot, state: Path, boot_timeout_s: float, spec: MachineSpec, likely: Command) -> float:
    channel = boot.await_helper(boot_timeout_s)
    assert boot.monitor is not None
    assert channel.greeting is not None
    system_mode = channel.greeting.system_mode
    up = time.monotonic()
    if system_mode:
        _await_sshd(boot, channel, boot_timeout_s)
        up = _await_rest(boot.pid)
        prepare_sshd(channel, state.parent)
    else:
        bringup.tell_name_server(channel, spec)
    if likely.argv and not system_mode:
        path = next((word[5:] for word in likely.env if word.startswith("PATH=")), "")
        channel.warm(path, likely.argv[0])
        with contextlib.suppress(Failure):  # a command that is not there will say so itself
            channel.settle(_SAVE_S)
    channel.sync()
    _await_calm(channel, channel.greeting)
    save_to(boot.monitor, state)
    return up


def _await_calm(channel: Channel, hello: Hello) -> None:
    """Let the kernel do what it put off: a clone should not begin with it.

    Some of it waits until an idle processor wakes up (deferrable timers), so that is seen to once more, with
    the helper awake: a clone then has no idle processor to start again, and nobody to wake.
    """
    chosen = hello.host_ns(hello.began_boottime_ns) / 1e9 + _CLOCK_CHOSEN_S
    time.sleep(max(_SETTLE_S / 2, chosen - time.monotonic()))
    channel.sync()
    channel.poise()
    channel.settle(_SAVE_S)
    time.sleep(_SETTLE_S / 2)


def _await_rest(pid: int) -> float:
    """When the guest of this QEMU came to rest (monotonic); one that does not in time is frozen as it is.

    An sshd answers before init is done, and what is left of the boot every clone would do again.
    """
    began, worked_ns = time.monotonic(), usage.cpu_ns(pid)
    limit = began + _REST_WITHIN_S
    while began < limit:
        time.sleep(_REST_S)
        now_ns = usage.cpu_ns(pid)
        if now_ns - worked_ns < _AT_REST * _REST_S * 1e9:
            break
        began, worked_ns = time.monotonic(), now_ns
    return began


def prepare_sshd(channel: Channel, folder: Path) -> None:
    """Put aside where sshd is found, forget the keys of which clones would all have the same, and let in who
    has the template's own login key: a clone that keeps its identity needs none of its own."""
    from vmm import ssh

    channel.put(bringup.AUTHORIZED, f"{ssh.make_key(folder, folder.name)}\n".encode(), 0o600)
    channel.run(
        ExecRequest(("/bin/sh", "-c", f"cp /run/sshd.pid {clones.SSHD_PID} 2>&-; {FORGET_KEYS}")), Stdio()
    )


def _await_sshd(boot: Boot, channel: Channel, timeout_s: float) -> None:
    """Wait for an sshd that listens, without knocking while the guest boots.

    QEMU's user network sends a knock that nobody heard again, seconds later: in each clone, which then has a
    visitor that its sshd serves first. One without a pid file (socket activation) is asked at rest.
    """
    assert boot.monitor is not None
    deadline = time.monotonic() + timeout_s
    looked, worked_ns = time.monotonic(), usage.cpu_ns(boot.pid)
    while (now := time.monotonic()) < deadline:
        if clones.lives(channel, clones.SSHD_PIDFILE):
            return
        if now - looked > _REST_S:
            before_ns, worked_ns = worked_ns, usage.cpu_ns(boot.pid)
            if worked_ns - before_ns < _AT_REST * (now - looked) * 1e9 and _sshd_answers(boot.monitor):
                return
            looked = time.monotonic()
        time.sleep(0.05)
    raise DeadlinePassed("cannot freeze the machine", why=f"its sshd did not answer within {timeout_s:g} s")


def _sshd_answers(monitor: Monitor) -> bool:
    told = str(monitor.execute("human-monitor-command", {"command-line": "info usernet"}))
    port = next((one.host for one in forwards.parse(told) if one.guest == 22), 0)
    return bool(port) and readiness.banner(("127.0.0.1", port), 1.0).startswith(b"SSH-")


def save_to(monitor: Monitor, path: Path) -> None:
    """Write the devices' state to a file that QEMU itself cannot open."""
    state = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        save_state(monitor, state)
    finally:
        os.close(state)


def save_state(monitor: Monitor, state: int) -> None:
    """Write the devices' state to a descriptor; memory stays in its file. The machine stands still then.

    It is not stopped before: the state then says "running", and clones run without being told to.
    Raises Failure with QEMU's words, DeadlinePassed.
    """
    monitor.execute("migrate-set-capabilities", {"capabilities": [templates.LEAVE_MEMORY_OUT]})
    pipe = state_pipe.Writer(state)
    try:
        monitor.execute("getfd", {"fdname": "state"}, fd=pipe.into)
        pipe.lent()
        monitor.execute("migrate", {"uri": "fd:state"}, timeout_s=_SAVE_S)
        pipe.empty(time.monotonic() + _SAVE_S)
        stream.await_sent(monitor, "cannot save the state of", _SAVE_S)
    finally:
        pipe.close()


def finish(
    spec: MachineSpec,
    key: str,
    folder: Path,
    memory: Path,
    image: str,
    began: float,
    up: float,
    named: tuple[str, ...] = (),
) -> Template:
    """Make the disk that clones stand on and write the record.

    `began` is when the work did, `up` when the machine had booted (monotonic); `named` are its ports, where
    those are not the ones of its birth.
    """
    disk = folder / "disk.qcow2"
    disk.chmod(0o444)
    argv = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "lazy_refcounts=on,cluster_size=8k"]
    argv += ["-b", str(disk), "-F", "qcow2", str(folder / "overlay.qcow2")]
    commands.run(argv, "cannot make the template's disk", timeout_s=60)
    for leftover in ("log", "status", "serial.log", "qemu.log"):
        with contextlib.suppress(FileNotFoundError):
            (folder / leftover).unlink()
    base = templates.bottom(disk).name
    made = Template(
        name=folder.name,
        key=key,
        folder=folder,
        memory=memory,
        memory_bytes=spec.memory_bytes,
        automatic=bool(key),
        image=image,
        image_digest=base.split(".")[0],
        created_unix_s=templates.now_unix_s(),
        took_s=round(time.monotonic() - began, 3),
        after_boot_s=round(time.monotonic() - up, 3),
        ports=named,
        files={**templates.fingerprint(folder, memory), **templates.foundations(spec)},
        spec=spec.to_record(),
    )
    templates.save(made)
    return made
