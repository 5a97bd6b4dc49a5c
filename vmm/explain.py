"""What a machine is made of: its plan in both drivers' words, what runs now, and what would start it
sooner."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from host import paths
from host.errors import BadData, NotFound
from vmm import access, domain_xml, holes, phases, qemu_argv, templates, usage
from vmm.monitor import JOURNAL
from vmm.spec import MachineSpec, replace

if TYPE_CHECKING:
    from vmm.launch import Launch
    from vmm.machine import Machine


def explain(machine: Machine) -> str:
    """The explanation as text: plan, processes, threads, cgroup, memory, and the flags that cut a slow
    phase."""
    how, began_as_clone = _as_it_runs(machine)
    parts = [
        ("QEMU's command line", " \\\n  ".join(qemu_argv.joined(qemu_argv.argv(machine.spec, how)))),
        ("the same machine as libvirt XML", domain_xml.xml(machine.spec, how).rstrip()),
        ("the devices", "\n".join(devices(machine.spec))),
        ("what runs now", "\n".join(_running(machine))),
        ("the ways into it, in the order in which they are tried", "\n".join(access.explained(machine))),
        ("the QMP commands that we sent", "\n".join(_commands(machine.run_dir))),
        ("how its start went, and what would cut it", "\n".join(_phases(machine))),
    ]
    if began_as_clone:
        kept = "\n".join(_kept(machine.spec))
        parts.insert(-1, ("what a clone keeps of its template, for it cannot be made anew", kept))
    return "\n\n".join(f"# {title}\n{text}" for title, text in parts) + "\n"


def _as_it_runs(machine: Machine) -> tuple[Launch, bool]:
    """How it was started, and whether as a clone of a template; of a machine that never ran, how it will be.

    A clone's QEMU has the template's memory and waits for its devices' state; a machine that started again
    later has neither, whatever it was at first.
    """
    how = machine.here()
    memory = holes.memory_of(machine.pid())
    if memory is None:
        new = machine.pid() is None and not (machine.folder / "serial.log").exists()
        return how, new and bool(machine.spec.template)
    how = replace(how, memory_file=str(memory), memory_private=True, incoming=True)
    with contextlib.suppress(NotFound, BadData, KeyError):
        how = replace(how, ports=templates.load(paths.home(), memory.stem).ports)
    return how, True


def _kept(spec: MachineSpec) -> list[str]:
    from vmm import clones

    identity = "the host name, the machine-id, the SSH host keys and the login key (--keep-identity)"
    return [*([identity] if spec.keep_identity else []), *clones.KEPT]


def devices(spec: MachineSpec) -> list[str]:
    """What the guest finds, one line each."""
    found = [f"{qemu_argv.machine_type(spec)} with {spec.cpus} processor(s), {spec.memory_bytes >> 20} MiB"]
    found += [f"disk {n}: {disk.format} {disk.path} by {disk.bus}" for n, disk in enumerate(spec.disks)]
    found += [f"card {n}: {nic.kind} {nic.network}".rstrip() for n, nic in enumerate(spec.nics)]
    found += [f"share {share.source} on {share.target} by {share.kind}" for share in spec.shares]
    found += ["serial console, virtio-serial channels of the guest helper, virtio-rng"]
    named = ("balloon", "tpm", "display", "agent")
    return found + [f"{name}" for name in named if getattr(spec, name)]


def _running(machine: Machine) -> list[str]:
    pid = machine.pid()
    if pid is None:
        return [f"nothing: it is {machine.state()}"]
    memory = usage.memory_beyond_guest(pid, machine.spec.memory_bytes)
    guest, code, files = (memory[f"{part}_pss_bytes"] >> 20 for part in ("guest", "translated", "files"))
    own = (memory["vmm_pss_bytes"] >> 20) - code - files
    frozen = holes.memory_of(pid)
    whose = (
        f"what it has written itself, and its share of {frozen}, which all clones map"
        if frozen
        else "as far as the guest has ever touched it"
    )
    return [
        f"QEMU is pid {pid}, user {os.stat(f'/proc/{pid}').st_uid}, accelerator {machine.accelerator()}",
        f"threads: {', '.join(_threads(pid))}",
        f"memory: {guest} MiB hold the guest's RAM, {whose}",
        f"memory beyond it: {code} MiB of code that TCG has translated, {own} MiB of QEMU's own, and {files} "
        "MiB of files (the kernel, QEMU), which machines share",
        *(f"cgroup {line}" for line in _cgroups(pid)),
        f"sockets in {machine.run_dir}: ctl and query speak QMP, serial is the console, guest* the helper's",
    ]


def _phases(machine: Machine) -> list[str]:
    return phases.told(machine.run_dir, machine.spec) or phases.faster(machine.spec)


def _commands(run: Path) -> list[str]:
    """From the journal of the control monitor; the query monitor is only ever asked how it is."""
    try:
        lines = (run / JOURNAL).read_text().splitlines()
    except OSError:
        return ["none: it does not run"]
    return [*lines, "and query-status on the socket `query`, whenever somebody looks at its state"]


def _threads(pid: int) -> list[str]:
    tasks = Path(f"/proc/{pid}/task")
    return sorted(task.joinpath("comm").read_text().strip() for task in tasks.iterdir())


def _cgroups(pid: int) -> list[str]:
    lines = Path(f"/proc/{pid}/cgroup").read_text().split()
    return [line.partition(":")[2] for line in lines if not line.endswith(":/")]
