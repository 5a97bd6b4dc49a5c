"""What our own targets share: a start by `instances.runs` in a process of its own, heard from outside."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.core import idle
from bench.core.target import MARKER, Cell, Held, Parts, Unavailable
from bench.targets import command, engine
from host import paths
from host.edges import Edges
from host.errors import DeadlinePassed, Failure, NotFound
from host.sizes import parse_bytes
from host.stdio import Stdio

if TYPE_CHECKING:
    from instances.registry import Instance
    from instances.requests import Port, RunRequest

PREFIX = "bench"
POLL_S = 0.02


class Ours:
    """One of our kinds (`ct`, `vm`), by one driver."""

    name = ""
    kind = ""
    driver: str | None = None
    knock_every_s = 0.2
    daemons: tuple[str, ...] = ("dnsmasq",)  # a network's, from its first member on

    def __init__(self) -> None:
        self._accelerator: str | None = None
        self._digests: dict[str, str] = {}

    def why_unavailable(self) -> Unavailable | None:
        """Always there; the kinds say more."""
        return None

    def prepare(self, cell: Cell) -> None:
        """Have the image and all that a start needs at hand, so that no run makes it; nothing old is left."""
        from instances import kinds, provision, runs, wiring

        self._remove_strays()
        image = provision.image(cell.image)
        self._digests[f"image {cell.image}"] = image.digest
        outlined = kinds.backend(wiring.outline(self.request(cell), image))
        self._accelerator = outlined.accelerator() if hasattr(outlined, "accelerator") else None
        # One made and removed: kernel, initrd and base disk are in their caches from here on.
        runs.remove(runs.create(self.request(cell)), force=True)

    def request(self, cell: Cell) -> RunRequest:
        """The words of `vmm run` for this cell."""
        from instances.requests import Port, RunRequest

        boots = cell.mode == "boot"
        memory = cell.param("memory", "512M" if boots else "256M")
        cpus = cell.param("cpus", 0)
        return RunRequest(
            image=cell.image,
            command=("/sbin/init",) if boots else cell.command,
            kind=self.kind,
            name=f"{PREFIX}-{os.getppid()}-{os.getpid()}-{cell.run}",
            rm=True,
            memory_bytes=parse_bytes(str(memory)),
            cpus=float(cpus) if cpus else None,
            network=None if boots else str(cell.param("network", "none")),
            ports=(Port(_free_port(), 22),) if boots else (),
            driver=self.driver,
            boot=self.boot(cell),
            append=cell.param("append", "") or None,
            disk_format=cell.param("disk_format", "") or None,
        )

    def boot(self, cell: Cell) -> str | None:
        """The rung of the ladder, for machines."""
        return cell.param("boot", "") or None

    def run_once(self, cell: Cell) -> Parts:
        """Command mode: request to the end of the command. Boot mode: request to sshd's first byte."""
        if cell.mode == "boot":
            return self._booted(cell)
        parts = called(lambda stdio, edges: self._run(cell, stdio, edges), cell)
        return Parts(**{**vars(parts), "accelerator": self._accelerator})

    def _run(self, cell: Cell, stdio: Stdio, edges: Edges) -> int:
        from instances import registry, runs

        request = self.request(cell)
        if cell.mode != "workload":
            return runs.run(request, stdio, edges)
        # With --rm an instance may skip flushes, as it need not outlive a crash: work is measured without.
        try:
            return runs.run(request._replace(rm=False), stdio, edges)
        finally:
            with contextlib.suppress(NotFound):
                runs.remove(registry.load(str(request.name)), force=True)

    def _booted(self, cell: Cell) -> Parts:
        edges = Edges()
        until_s = time.monotonic() + cell.deadline_s
        request = self.request(cell)
        with self._detached(request, edges):
            edges.mark("t8", _sshd_ns(request.ports[0], until_s, self.knock_every_s))
        edges.mark("t9")
        return Parts(edges_ns=edges.since_ns(), accelerator=self._accelerator)

    @contextmanager
    def _detached(self, request: RunRequest, edges: Edges) -> Iterator[Instance]:
        from instances import runs

        instance = runs.run_detached(request, edges)
        try:
            yield instance
        finally:
            runs.remove(instance, force=True)

    @contextmanager
    def hold(self, cell: Cell) -> Iterator[Held]:
        """A detached instance that has said its marker and sleeps (boot mode: whose sshd answers)."""
        until_s = time.monotonic() + cell.deadline_s
        idle_cell = cell if cell.mode == "boot" else replace(cell, command=command.resting(cell))
        request = self.request(idle_cell)._replace(detach=True, rm=False)
        with self._detached(
            request._replace(name=f"{request.name}-{time.monotonic_ns()}"), Edges()
        ) as instance:
            if cell.mode == "boot":
                _sshd_ns(request.ports[0], until_s, self.knock_every_s)
            else:
                command.await_text(lambda: logged(instance), MARKER, cell.deadline_s, POLL_S)
            yield OurHeld(instance, self._accelerator, request.memory_bytes or 0)

    def disk(self, cell: Cell) -> Parts:
        """What one instance, created but not started, adds on disk, after sync; and a start's writes."""
        from bench.targets import disk_use
        from instances import runs

        request = self.request(cell)._replace(rm=False)
        instance = runs.create(request, Edges())
        try:
            return Parts(values=disk_use.of([instance.folder]), accelerator=self._accelerator)
        finally:
            runs.remove(instance, force=True)

    def disk_slope(self, cell: Cell) -> tuple[Parts, ...]:
        """What each of `instances` idle ones takes of the disk: the whole home, read along the way."""
        from bench.targets import disk_use

        start = self._booted_once if cell.param("booted", "") == "once" else self.hold
        return disk_use.slope(lambda: start(cell), int(cell.param("instances", 100)), self._accelerator)

    @contextmanager
    def _booted_once(self, cell: Cell) -> Iterator[Instance]:
        """An instance that has run up to its marker and was stopped: its disk stays as that left it."""
        from instances import runs

        idle_cell = replace(cell, command=command.resting(cell))
        request = self.request(idle_cell)._replace(detach=True, rm=False)
        name = f"{request.name}-{time.monotonic_ns()}"
        with self._detached(request._replace(name=name), Edges()) as instance:
            command.await_text(lambda: logged(instance), MARKER, cell.deadline_s, POLL_S)
            runs.stop(instance, 1.0)
            yield instance

    @contextmanager
    def provisioned(self, cell: Cell) -> Iterator[Instance]:
        """An instance that was created and is never started."""
        from instances import runs

        instance = runs.create(self.request(cell)._replace(rm=False), Edges())
        try:
            yield instance
        finally:
            runs.remove(instance, force=True)

    def pack(self, cell: Cell) -> Parts:
        """One compressed file with which another host could start the instance; the file is not kept."""
        from bench.targets import packing

        with self.provisioned(cell) as instance:
            return Parts(values=packing.packed(instance), accelerator=self._accelerator)

    def cleanup(self) -> None:
        """Remove every instance of this campaign, and of campaigns that are dead."""
        self._remove_strays(everything=True)

    def _remove_strays(self, everything: bool = False) -> None:
        from instances import registry, runs

        for instance in registry.every():
            words = instance.name.split("-")
            if words[0] != PREFIX or len(words) < 3 or instance.kind != self.kind:
                continue
            is_mine = words[1] == str(os.getpid())
            if (is_mine and everything) or not os.path.exists(f"/proc/{words[1]}"):
                with contextlib.suppress(Failure):
                    runs.remove(instance, force=True)

    def versions(self) -> dict[str, str]:
        """The programs that take part, and the digests of the images that were prepared so far."""
        return dict(self._digests)


class OurHeld:
    """An idle instance of ours: what its backend's inspect() says."""

    def __init__(self, instance: Instance, accelerator: str | None, configured_bytes: int) -> None:
        self.instance, self.accelerator = instance, accelerator
        self.way: str | None = None
        self._configured_bytes = configured_bytes

    def _inspected(self) -> dict[str, Any]:
        from instances import kinds

        return kinds.backend(self.instance).inspect()

    def pids(self) -> set[int]:
        """All host processes: those that inspect() names, and their descendants."""
        told = self._inspected()
        named = [told.get("pid"), told.get("supervisor_pid"), *told.get("pids", ())]
        return {pid for one in named if one for pid in idle.descendants(int(one))}

    def exec_argv(self, inside: tuple[str, ...]) -> list[str]:
        """The whole command that runs one more in it."""
        from bench.targets.whole import vmm_argv

        return [*vmm_argv(), "exec", self.instance.name, *inside]

    def address(self) -> str:
        """Its address on the network that it joined; empty where it has none."""
        from host.linux import net

        leases = net.leases_of(paths.home(), self.instance.name)
        return str(leases[0].ip) if leases else ""

    def pause(self) -> None:
        """Freeze it."""
        from instances import runs

        runs.pause(self.instance)

    def resume(self) -> None:
        """Let it go on."""
        from instances import runs

        runs.resume(self.instance)

    def snapshot(self) -> dict[str, float]:
        """Keep its memory and disks, and go back to them."""
        from bench.targets import moving

        values, self.way = moving.snapshot(self.instance)
        return values

    def move(self) -> dict[str, float]:
        """Have a second QEMU go on with a copy of it."""
        from bench.targets import moving

        return moving.move(self.instance)

    def resize(self, memory_bytes: int) -> None:
        """Another memory limit."""
        from bench.targets import moving

        moving.resize(self.instance, memory_bytes)

    def cgroups(self) -> tuple[str, ...]:
        """The memory cgroups that inspect() names."""
        told = self._inspected()
        folders = told.get("cgroups") or told.get("cgroup") or ()
        return tuple(str(folder) for folder in folders if os.path.exists(f"{folder}/memory.stat"))

    def guest_values(self) -> dict[str, float]:
        """What the guest's own kernel says of its memory; for a machine only."""
        from instances.kinds import MACHINE

        if self.instance.kind != MACHINE:
            return {"daemon_pss_bytes": idle.processes(supervisors())["pss_bytes"]}
        meminfo = _meminfo(said_inside(self.instance, ("cat", "/proc/meminfo")))
        used = meminfo.get("MemTotal", 0) - meminfo.get("MemAvailable", 0)
        return {"configured_bytes": float(self._configured_bytes), "guest_used_bytes": float(used),
                "guest_total_bytes": float(meminfo.get("MemTotal", 0))}  # fmt: skip


def called(run: Callable[[Stdio, Edges], int], cell: Cell) -> Parts:
    """Call `run` in a forked process with pipes as its stdio, as `vmm run` would."""

    def fork(out: int, err: int, tell: int) -> int:
        pid = os.fork()
        if pid == 0:
            engine.report(run, Stdio(0, out, err), tell)
        return pid

    return heard(fork, cell)


def heard(begin: Callable[[int, int, int], int], cell: Cell) -> Parts:
    """What the process says that `begin` starts on three pipes: stdout, stderr and the engine's report.

    t8 is our own stamp of its first byte, the other edges are the engine's.
    """
    out_fd, out_end = os.pipe2(os.O_CLOEXEC)
    err_fd, err_end = os.pipe2(os.O_CLOEXEC)
    told_fd, tell_fd = os.pipe2(os.O_CLOEXEC)
    try:
        pid = begin(out_end, err_end, tell_fd)
    finally:
        for fd in (out_end, err_end, tell_fd):
            os.close(fd)
    edges = Edges()
    try:
        said = command.heard(out_fd, err_fd, edges, time.monotonic() + cell.deadline_s)
        report = _report(told_fd)
    finally:
        command.end(pid)
        for fd in (out_fd, err_fd, told_fd):
            os.close(fd)
    for edge, at_ns in report.get("stamps_ns", {}).items():
        if edge != "t6" or not command.said_init(said[1]):  # the helper's own word is nearer to the truth
            edges.mark(edge, at_ns)
    if "t0" not in edges.stamps_ns:
        return Parts(
            "failed", error=report.get("error") or "the engine ended without a word", hint=report.get("hint")
        )
    made = command.parts(command.Spoken(*said, report.get("status", -1)), cell, edges)
    if report.get("error"):
        return Parts("failed", made.edges_ns, error=report["error"], hint=report.get("hint"))
    return made


def _report(fd: int) -> dict[str, Any]:
    """What the engine told, up to the end of its pipe."""
    data = b""
    while chunk := os.read(fd, 1 << 16):
        data += chunk
    try:
        report: dict[str, Any] = json.loads(data)
    except ValueError:
        return {"error": f"the engine ended without a word: {data[-200:]!r}"}
    return report


def logged(instance: Instance) -> str:
    """All that the instance has said so far."""
    from instances import kinds

    return _through_file(lambda fd: kinds.backend(instance).logs(False, None, False, fd))


def said_inside(instance: Instance, argv: tuple[str, ...]) -> str:
    """What a command says on stdout in a running instance."""
    from host.exec_request import ExecRequest
    from instances import kinds

    def run(fd: int) -> None:
        null_fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            kinds.backend(instance).exec(
                ExecRequest(argv, (f"PATH={command.ENV['PATH']}",)), Stdio(null_fd, fd, null_fd)
            )
        finally:
            os.close(null_fd)

    return _through_file(run)


def _through_file(write: Callable[[int], object]) -> str:
    fd = os.memfd_create("bench", os.MFD_CLOEXEC)
    try:
        write(fd)
        return os.pread(fd, 1 << 20, 0).decode(errors="replace")
    finally:
        os.close(fd)


def supervisors() -> list[int]:
    """The process that serves all detached containers of this home; no container's own."""
    found = []
    for folder in os.listdir("/proc"):
        if folder.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{folder}/cmdline", "rb") as text:
                words = text.read()
                if b"containers.supervisor" in words and str(paths.run_dir()).encode() in words:
                    found.append(int(folder))
    return found


def _meminfo(text: str) -> dict[str, int]:
    found = {}
    for line in text.splitlines():
        name, _, rest = line.partition(":")
        if rest.split()[:1] and rest.split()[0].isdigit():
            found[name] = int(rest.split()[0]) * 1024
    return found


def _free_port() -> int:
    """A port that nobody had a moment ago: a machine's forward must be known before QEMU starts."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _sshd_ns(port: Port, until_s: float, knock_every_s: float) -> int:
    """When the first byte of sshd's banner came, in CLOCK_MONOTONIC nanoseconds.

    User networking accepts a connection long before a booting guest does, so a new one knocks now and then
    and the older ones stay open: the first byte on any of them is the answer.
    """
    knocks: list[socket.socket] = []
    try:
        while time.monotonic() < until_s:
            knocks.append(socket.create_connection((port.host_ip, port.host_port), timeout=2))
            next_s = time.monotonic() + knock_every_s
            while (left_s := next_s - time.monotonic()) > 0:
                for knock in select.select(knocks, [], [], left_s)[0]:
                    if _answers(knock):
                        return time.monotonic_ns()
                    knocks.remove(knock)
                    knock.close()
    finally:
        for knock in knocks:
            knock.close()
    raise DeadlinePassed("sshd did not answer", why=f"nothing came on port {port.host_port}")


def _answers(knock: socket.socket) -> bool:
    try:
        return bool(knock.recv(1))
    except OSError:
        return False


def home_is_writable() -> Unavailable | None:
    """Why instances cannot be kept here."""
    home = paths.home()
    there = next(folder for folder in (home, *home.parents) if folder.exists())  # we make the rest
    if os.access(there, os.W_OK):
        return None
    return Unavailable(f"{home} is not writable", "set VMM_HOME to a folder of yours")
