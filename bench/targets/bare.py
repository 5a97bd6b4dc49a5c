"""The same machine without us: the QEMU command line of `vmm explain`, or its XML through virsh.

What ours takes more than this is what our driver costs. The end marker is the same: `echo`, run through the
guest helper by a channel that the plan gives every machine.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.core.target import Cell, Held, Parts, Unavailable
from bench.targets import command
from bench.targets.ours import OurHeld, called
from bench.targets.vm import Machine
from bench.targets.vm_libvirt import LibvirtMachine
from host import commands, paths
from host.edges import Edges
from host.errors import DeadlinePassed, Failure
from host.exec_request import ExecRequest
from host.stdio import Stdio

if TYPE_CHECKING:
    from instances.registry import Instance

UP_POLL_S = 0.002
QEMU_USER = "libvirt-qemu"


class Qemu(Machine):
    """`qemu-system-x86_64` with our arguments, spawned by posix_spawn(3)."""

    name = "qemu"

    def run_once(self, cell: Cell) -> Parts:
        """Spawn to the command's first byte; files are made before t0."""
        with self.provisioned(cell) as instance:
            paths.ensure(instance.run)
            parts = called(lambda stdio, edges: self._started(instance, cell, stdio, edges), cell)
        return replace(parts, accelerator=self._accelerator)

    def _started(self, instance: Instance, cell: Cell, stdio: Stdio, edges: Edges) -> int:
        until_s = time.monotonic() + cell.deadline_s
        with self._machine(instance, edges):
            if "earlyprintk" in cell.param("append", ""):  # else a quiet kernel may never say a word
                edges.mark("t4", _first_byte_ns(instance.run / "serial", until_s))
            return _executed(instance, cell, stdio, until_s)

    @contextmanager
    def _machine(self, instance: Instance, edges: Edges) -> Iterator[None]:
        argv = shlex.split(_plan(instance, self._accelerator))
        edges.mark("t0")
        edges.mark("t2")
        quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
        pid = os.posix_spawnp(argv[0], argv, command.ENV, file_actions=quiet)
        try:
            yield
        finally:
            command.end(pid)
            edges.mark("t9")

    @contextmanager
    def hold(self, cell: Cell) -> Iterator[Held]:
        """A machine whose helper answers and that runs nothing."""
        with self.provisioned(cell) as instance:
            paths.ensure(instance.run)
            with self._machine(instance, Edges()):
                null_fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
                try:
                    stdio = Stdio(null_fd, null_fd, null_fd)
                    _executed(instance, cell, stdio, time.monotonic() + cell.deadline_s)
                finally:
                    os.close(null_fd)
                yield OurHeld(instance, self._accelerator, self.request(cell).memory_bytes or 0)


class Virsh(Qemu):
    """`virsh create` of our XML, by the libvirtd that our own driver uses."""

    name = "virsh"
    driver = "libvirt"
    daemons = LibvirtMachine.daemons

    def why_unavailable(self) -> Unavailable | None:
        """virsh, and what libvirt needs."""
        if shutil.which("virsh") is None:
            return Unavailable("virsh is not installed", "apt-get install libvirt-clients")
        return LibvirtMachine().why_unavailable()

    def versions(self) -> dict[str, str]:
        """QEMU's and libvirt's."""
        return LibvirtMachine().versions()

    @contextmanager
    def _machine(self, instance: Instance, edges: Edges) -> Iterator[None]:
        xml = instance.folder / "bare.xml"
        xml.write_text(_plan(instance, self._accelerator))
        name = xml.read_text().partition("<name>")[2].partition("</name>")[0]
        # The XML says that libvirt shall not relabel (so must we): its QEMU has a user of its own.
        for path in (instance.run, instance.folder, *instance.folder.iterdir()):
            shutil.chown(path, QEMU_USER)
        edges.mark("t0")
        commands.run([*_virsh(), "create", str(xml)], "cannot virsh create", timeout_s=60)
        edges.mark("t3")
        try:
            yield
        finally:
            with contextlib.suppress(Failure):
                commands.run([*_virsh(), "destroy", name], "cannot virsh destroy", timeout_s=30)
            edges.mark("t9")


def _virsh() -> list[str]:
    return ["virsh", "--connect", os.environ.get("LIBVIRT_DEFAULT_URI", "qemu:///system"), "--quiet"]


def _plan(instance: Instance, accelerator: str | None) -> str:
    """The plan as text, for the accelerator that was found."""
    from instances import kinds

    settled = instance._replace(spec={**instance.spec, "accel": accelerator or "tcg"})
    return kinds.backend(settled).plan().replace("\\\n", " ")


def _first_byte_ns(path: Path, until_s: float) -> int:
    """When the guest's first byte came out of its serial port (monotonic)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as serial:
        while serial.connect_ex(str(path)):
            if time.monotonic() > until_s:
                raise DeadlinePassed("the machine made no serial port", str(path))
            time.sleep(UP_POLL_S)
        serial.settimeout(max(0.001, until_s - time.monotonic()))
        serial.recv(1)
        return time.monotonic_ns()


def _executed(instance: Instance, cell: Cell, stdio: Stdio, until_s: float) -> int:
    """Run the cell's command through the guest helper, as soon as there is one."""
    from instances import kinds

    request = ExecRequest(cell.command, (f"PATH={command.ENV['PATH']}",))
    while True:
        try:
            return kinds.backend(instance).exec(request, stdio)
        except (Failure, OSError) as error:
            if time.monotonic() > until_s:
                raise DeadlinePassed("the machine did not come up", why=str(error)) from None
            time.sleep(UP_POLL_S)
