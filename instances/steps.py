"""The commands of a build: each RUN in a container of its own (images.steps.StepRunner)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from containers.container import Container
from containers.spec import ContainerSpec, Mount
from host import paths
from host.edges import Edges
from host.stdio import Stdio

if TYPE_CHECKING:
    from images.steps import Step, StepMount


class _StepContainer(Container):
    """A container that lies among the half-made layers, not among the instances."""

    @property
    def home(self) -> Path:
        """This home: the folder's own place does not tell it."""
        return paths.home()


def run(step: Step, output: int) -> int:
    """Run one RUN in a container whose writable layer is the layer to be; its exit status."""
    name = f"step-{os.getpid()}-{os.urandom(4).hex()}"
    run = paths.run_dir() / name
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        run.mkdir(parents=True)
        stdio = Stdio(stdin=nothing, stdout=output, stderr=output)
        return _StepContainer(step.folder, run, spec(step, name)).run(stdio, Edges())
    finally:
        os.close(nothing)
        shutil.rmtree(run, ignore_errors=True)


def spec(step: Step, name: str) -> ContainerSpec:
    """The container of a step: like any other, but setuid programs work, as package scripts expect."""
    from instances.container_wiring import default_network

    network = default_network() if step.network == "default" else step.network
    return ContainerSpec(
        name=name,
        lower_dirs=tuple(str(path) for path in step.lowers),
        argv=step.argv,
        env=step.env,
        cwd=step.workdir,
        user=step.user,
        hostname="build",
        network=network,
        mounts=tuple(_mount(mount) for mount in step.mounts),
        no_new_privileges=False,
        ephemeral=True,
    )


def _mount(mount: StepMount) -> Mount:
    return Mount(mount.kind, mount.target, str(mount.source or ""), mount.read_only)
