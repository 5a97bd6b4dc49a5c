"""What a machine is made of: its plan in both drivers' words, what runs now, and what would start it
sooner."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from vmm import domain_xml, qemu_argv, usage
from vmm.spec import MachineSpec

if TYPE_CHECKING:
    from vmm.machine import Machine


def explain(machine: Machine) -> str:
    """The explanation as text: plan, processes, threads, cgroup, memory, and the flags that cut a slow
    phase."""
    how = machine.here()
    parts = [
        ("QEMU's command line", " \\\n  ".join(qemu_argv.joined(qemu_argv.argv(machine.spec, how)))),
        ("the same machine as libvirt XML", domain_xml.xml(machine.spec, how).rstrip()),
        ("the devices", "\n".join(devices(machine.spec))),
        ("what runs now", "\n".join(_running(machine))),
        ("what would start it sooner", "\n".join(faster(machine.spec))),
    ]
    return "\n\n".join(f"# {title}\n{text}" for title, text in parts) + "\n"


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
    guest, rest = memory["guest_pss_bytes"] >> 20, memory["vmm_pss_bytes"] >> 20
    return [
        f"QEMU is pid {pid}, user {os.stat(f'/proc/{pid}').st_uid}, accelerator {machine.accelerator()}",
        f"threads: {', '.join(_threads(pid))}",
        f"memory: {guest} MiB hold the guest's RAM, {rest} MiB are QEMU's own",
        *(f"cgroup {line}" for line in _cgroups(pid)),
        f"sockets in {machine.run_dir}: ctl and query speak QMP, serial is the console, guest* the helper's",
    ]


def _threads(pid: int) -> list[str]:
    tasks = Path(f"/proc/{pid}/task")
    return sorted(task.joinpath("comm").read_text().strip() for task in tasks.iterdir())


def _cgroups(pid: int) -> list[str]:
    lines = Path(f"/proc/{pid}/cgroup").read_text().split()
    return [line.partition(":")[2] for line in lines if not line.endswith(":/")]


def faster(spec: MachineSpec) -> list[str]:
    """For each phase that this machine spends time in, the flag that would cut it."""
    found = []
    if spec.boot in ("bios", "uefi"):
        found.append(
            f"firmware and boot loader: --boot direct starts the kernel without {spec.boot} and GRUB"
        )
    if spec.boot == "direct":
        found.append(
            "decompression: --boot pvh starts the uncompressed kernel, with a firmware of milliseconds"
        )
    if spec.boot in ("direct", "pvh"):
        found.append("PCI scan: --boot microvm has no PCI bus (and no hotplug)")
    if spec.boot == "microvm" and not spec.template:
        found.append(
            "kernel and init: leave --boot out, and the start is a clone of a machine that has booted"
        )
    if spec.init is not None:
        found.append("services: systemd-analyze blame inside names the slow ones")
    return found or ["nothing: it is a clone, the last rung of the ladder"]
