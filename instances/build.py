"""Builds: `images` reads the Dockerfile and keeps the layers, `containers` runs its commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from instances import provision

if TYPE_CHECKING:
    from collections.abc import Callable

    from images.build import Request
    from images.steps import Step
    from images.store import Image


def build(request: Request, progress: Callable[[str], None]) -> Image:
    """Build the image of a Dockerfile in this home; a base that is not here is made or pulled."""
    from images import build as builds

    return builds.build(provision.store(), request, run_step, provision.image, progress)


def run_step(step: Step, output: int) -> int:
    """Run one RUN (images.steps.StepRunner); a build whose steps are cached loads no container."""
    from instances import steps

    return steps.run(step, output)
