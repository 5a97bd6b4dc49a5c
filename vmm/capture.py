"""A template of a machine that runs: its memory goes over into the template's file, and it goes on itself.

The second QEMU that takes the memory runs for moments only, then its devices' state is saved. Source: QEMU's
docs/devel/migration.rst; both must have the same devices, and call the memory by the same name.
"""

from __future__ import annotations

import time
from pathlib import Path

from host import commands, guard
from host.edges import Edges
from host.errors import InUse, Unsupported
from vmm import freeze, holes, launch, live, ports, stream, templates
from vmm.admission import boot_timeout_s
from vmm.machine import Machine
from vmm.monitor import Monitor
from vmm.qemu_driver import QemuDriver
from vmm.spec import MachineSpec, replace
from vmm.templates import Template

_HINT = "vmm run --vm --cloneable, or a machine that started as a clone"


def why_not(spec: MachineSpec) -> str:
    """Why no template can be made of this machine while it runs, or an empty string."""
    if spec.balloon:
        return "its balloon would punch holes into the memory that clones share"
    return live.why_not(spec) or templates.why_not(spec)


def of_machine(home: Path, name: str, source: Machine, image: str) -> Template:
    """Freeze what `source` is now under `name`; it stands still while its memory and disk are copied.

    Raises InUse for a name that is taken, Unsupported for a machine that no template can hold, WrongState
    where it does not run.
    """
    with templates.locked(home, name):
        if (templates.root(home) / name / templates.RECORD).exists():
            raise InUse("cannot make the template", repr(name), "there is one", f"vmm template rm {name}")
        if refused := why_not(source.spec):
            raise Unsupported("cannot freeze the machine", source.folder.name, refused, _HINT)
        driver = source.driver
        with (
            guard.guarded(lambda: live.go_on(driver)),
            driver.control() as monitor,
            freeze.placed(home, name) as (folder, memory),
        ):
            if not live.has_backend(monitor):
                why = "its memory is QEMU's own, not a file's"
                raise Unsupported("cannot freeze the machine", source.folder.name, why, _HINT)
            return _frozen(home, source, monitor, folder, memory, image)


def _frozen(
    home: Path, source: Machine, monitor: Monitor, folder: Path, memory: Path, image: str
) -> Template:
    began = time.monotonic()
    spec = live.spec_of(source.spec, folder.name, "", folder)
    spec = replace(templates.neutral(spec, spec.disks[0].path), accel=source.accelerator())
    freeze.reserve(spec.memory_bytes, memory)
    run = templates.builder_run(home, folder.name)
    driver = QemuDriver(folder, run, spec)
    how = launch.here(run, folder, source.accelerator(), spec.arch)
    how = replace(how, memory_file=str(memory), incoming=True, ports=ports.plugged(monitor, spec))
    monitor.execute("stop")
    try:
        live.copy_disks(source.spec, spec)
        boot = driver.boot(how.accel, Edges(), True, how)
        try:
            assert boot.monitor is not None
            stream.hand_over(monitor, boot.monitor, "cannot copy the memory of")
            boot.monitor.execute("cont")  # the state says "paused", as its source was
            monitor.execute("cont")  # the source: what follows is the copy's own affair
            channel = boot.await_helper(boot_timeout_s())
            if channel.greeting and channel.greeting.system_mode:
                freeze.prepare_sshd(channel, folder)
            channel.sync()
            freeze.save_to(boot.monitor, folder / "state")
        finally:
            boot.close()
            driver.kill()
            driver.release()
    finally:
        monitor.execute("cont")
    # QEMU looked at each page for zeros before it left it out: a look at a hole of a tmpfs fills it
    commands.run(("fallocate", "--dig-holes", str(memory)), "cannot shrink the memory", timeout_s=60)
    holes.give_back(holes.memory_of(source.pid()))
    return freeze.finish(spec, "", folder, memory, image, began, began, how.ports)
