"""The one process that looks after all detached containers of a home: logs, ends, restarts, health.

It owns nothing that a container needs to live: killed at any moment, the containers run on, and the next
one adopts them from what lies in the run directory. It ends by itself when nothing is left to look after.
"""

from __future__ import annotations

import os
import resource
import select
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from containers import logs, restarts, runtime
from containers.container import Container
from containers.health import Checker
from containers.restarts import Backoff
from containers.spec import ContainerSpec
from host import records
from host.edges import Edges
from host.errors import DeadlinePassed, Failure

if TYPE_CHECKING:
    from collections.abc import Callable

_LINGER_S = 1.0  # how long an idle supervisor waits for the next container
_LOCKED_S = 0.1
_READ_BYTES = 1 << 16


class Ward:
    """One container under supervision: its FIFOs, its pidfd, its log."""

    def __init__(self, container: Container, pidfd: int) -> None:
        self.container, self.pidfd = container, pidfd
        self.init = runtime.recorded(container.run_dir)
        self.streams: dict[int, int] = {}
        spec = container.spec
        self.log = logs.Writer(container.folder / "log", spec.log_bytes, spec.log_files)
        for name, stream in (("stdout", logs.STDOUT), ("stderr", logs.STDERR)):
            try:
                fd = os.open(container.run_dir / name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
                self.streams[fd] = stream
            except FileNotFoundError:
                pass
        self.checker = Checker(container) if spec.health else None

    def read(self, fd: int) -> bool:
        """Move what a FIFO holds into the log; False where there was nothing."""
        try:
            data = os.read(fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if data:
            try:
                self.log.append(self.streams[fd], data)
            except OSError:
                pass  # a full disk loses output, never the container
        return bool(data)

    def close(self) -> None:
        """Take the last output, and let go."""
        for fd in self.streams:
            while self.read(fd):
                pass
        if self.checker:
            self.checker.close()
        runtime.close_all([*self.streams, self.pidfd])
        self.log.close()


class Supervisor:
    """The loop over all wards of `home`, whose run directories are below `base`."""

    def __init__(self, home: Path, base: Path) -> None:
        self.home, self.base = home, base
        self.wards: dict[str, Ward] = {}
        self.backoffs: dict[str, Backoff] = {}
        self.due: dict[str, float] = {}
        self.epoll = select.epoll()
        self.owners: dict[int, tuple[str, Callable[[Ward, int], object]]] = {}
        self.bell = runtime.make_fifo(base / "supervisor.bell")
        os.set_blocking(self.bell, False)
        self.epoll.register(self.bell, select.EPOLLIN)

    def run(self) -> None:
        """Look after everything until there is nothing left."""
        idle_since = time.monotonic()
        self.adopt_all()
        while True:
            self._events(self._pause_s())
            self._timers()
            if self.wards or self.due:
                idle_since = time.monotonic()
            elif time.monotonic() - idle_since > _LINGER_S:
                return

    def adopt_all(self) -> None:
        """Take on every detached container that runs and is not looked after."""
        try:
            names = os.listdir(self.home / "instances")
        except FileNotFoundError:
            return
        for name in names:
            if name in self.wards or not (self.base / name / "stdout").exists():
                continue
            if name in self.due:
                if runtime.living(self.base / name) is None:
                    self._give_up_stopped(name)
                    continue
                del self.due[name]  # its user was faster than we
            self._adopt(name)

    def _give_up_stopped(self, name: str) -> None:
        container = self._container(name)
        if container and restarts.stopped_by_user(container):
            del self.due[name]
            _give_up(container)

    def _adopt(self, name: str) -> None:
        from containers import detached

        container = self._container(name)
        if container is None:
            return
        pidfd = detached.pidfd(container)
        if pidfd is None:
            # Before the pid is written down the start may still fail; its folder is not ours to touch then.
            if runtime.recorded(container.run_dir):
                self._finish(Ward(container, -1))
            return
        ward = self.wards[name] = Ward(container, pidfd)
        self.epoll.register(pidfd, select.EPOLLIN)
        self.owners[pidfd] = (name, lambda ward, fd: self._ended(ward))
        for fd in ward.streams:
            self.epoll.register(fd, select.EPOLLIN)
            self.owners[fd] = (name, Ward.read)

    def _container(self, name: str) -> Container | None:
        try:
            record = records.read(self.home / "instances" / name / "instance.json")
            spec = ContainerSpec.from_record(record["spec"])
        except (OSError, Failure, KeyError, TypeError):
            return None
        return Container(self.home / "instances" / name, self.base / name, spec)

    def _pause_s(self) -> float:
        times = [*self.due.values(), *(one.checker.due for one in self.wards.values() if one.checker)]
        soonest = min(times, default=time.monotonic() + 5.0)
        return max(0.0, min(soonest - time.monotonic(), 5.0 if self.wards else _LINGER_S / 2))

    def _events(self, pause_s: float) -> None:
        for fd, _ in self.epoll.poll(pause_s):
            if fd == self.bell:
                self._drain_bell()
                self.adopt_all()
            elif fd in self.owners:
                name, answer = self.owners[fd]
                answer(self.wards[name], fd)

    def _drain_bell(self) -> None:
        try:
            os.read(self.bell, 4096)
        except BlockingIOError:
            pass

    def _ended(self, ward: Ward) -> None:
        name = ward.container.folder.name
        for fd in (*ward.streams, ward.pidfd):
            self.epoll.unregister(fd)
            del self.owners[fd]
        del self.wards[name]
        self._finish(ward)

    def _finish(self, ward: Ward) -> None:
        """The container ended: keep its last words, free what it held, start it again where wished."""
        ward.close()
        with runtime.held(ward.container.run_dir) as there:
            run = ward.container.run_dir
            if there and runtime.recorded(run) == ward.init and runtime.living(run) is None:
                return self._clean(ward)
        # A command removed it, or has started it anew, and has cleaned up itself.
        self.backoffs.pop(ward.container.folder.name, None)
        self.adopt_all()

    def _clean(self, ward: Ward) -> None:
        # Anew: `vmm update --restart` may have changed what is to come.
        container, init = self._container(ward.container.folder.name) or ward.container, ward.init
        lived_s = (time.time_ns() - init.started_unix_ns) / 1e9 if init else 0.0
        try:
            container.clean()
        except (OSError, Failure):
            pass  # the next command's cleaning meets it again
        if restarts.should_restart(container):
            # The FIFOs stay: should we die before, they tell the next supervisor that a start is due.
            backoff = self.backoffs.setdefault(container.folder.name, Backoff())
            self.due[container.folder.name] = time.monotonic() + backoff.next_s(lived_s)
        else:
            self.backoffs.pop(container.folder.name, None)
            _give_up(container)

    def _timers(self) -> None:
        now = time.monotonic()
        for name in [one for one, due in self.due.items() if due <= now]:
            del self.due[name]
            self._restart(name)
        for ward in list(self.wards.values()):
            if ward.checker and ward.checker.due <= now:
                ward.checker.check()

    def _restart(self, name: str) -> None:
        container = self._container(name)
        if container is None:
            return
        if restarts.stopped_by_user(container):
            return _give_up(container)
        try:
            with records.lock(container.folder / "lock", wait_s=0):
                _start_again(container)
        except DeadlinePassed:
            self.due[name] = time.monotonic() + _LOCKED_S  # a command has it: nobody else waits for that
            return
        if (container.run_dir / "stdout").exists():
            self._adopt(name)


def _start_again(container: Container) -> None:
    from containers import detached

    if runtime.living(container.run_dir):
        return
    try:
        detached.restart(container, Edges())
        restarts.counted(container)
    except (OSError, Failure) as error:
        restarts.note(container, str(error))
        _give_up(container)


def _give_up(container: Container) -> None:
    """Nobody speaks through the FIFOs any more: their absence tells followers and the next supervisor."""
    for name in ("stdin", "stdout", "stderr"):
        (container.run_dir / name).unlink(missing_ok=True)


def main(argv: list[str]) -> int:
    """Supervise the home argv[1] with the run directory argv[2]; argv[3] is the lock, held already.

    Returns when nothing is left to do.
    """
    home, base = Path(argv[1]), Path(argv[2])
    os.chdir("/")  # whose directory we were started in may be unmounted
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.set_inheritable(int(argv[3]), False)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # up to four descriptors each
    Supervisor(home, base).run()
    os.close(int(argv[3]))
    while _left_over(base):
        try:
            with records.lock(base / "supervisor.lock", wait_s=0):
                Supervisor(home, base).run()
        except DeadlinePassed:
            return 0  # another one looks after them
    return 0


def _left_over(base: Path) -> bool:
    """Whether a container was started between our last look and our lock's end: it has nobody else."""
    return any((one / "stdout").exists() for one in base.iterdir() if one.is_dir())


if __name__ == "__main__":
    sys.exit(main(sys.argv))
