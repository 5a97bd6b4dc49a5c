"""Whether and when an ended container starts again: docker's policies, with a back-off that a crash loop
cannot heat.

The count and the user's own stop lie in the run directory, so that a new supervisor knows them too.
"""

from __future__ import annotations

import time

from host.typing import TYPE_CHECKING

if TYPE_CHECKING:
    from containers.container import Container

_FIRST_S, _LONGEST_S, _SETTLED_S = 0.1, 60.0, 10.0


class Backoff:
    """The pause before the next start: doubled each time, short again once a run lasted."""

    def __init__(self) -> None:
        self.pause_s = _FIRST_S

    def next_s(self, lived_s: float) -> float:
        """The pause after a run of `lived_s` seconds."""
        if lived_s >= _SETTLED_S:
            self.pause_s = _FIRST_S
        pause_s, self.pause_s = self.pause_s, min(self.pause_s * 2, _LONGEST_S)
        return pause_s


def wanted(policy: str, status: int | None, restarts: int) -> bool:
    """Whether a container of that policy starts again after `status`; an unknown one counts as a failure."""
    word, _, limit = policy.partition(":")
    if word in ("always", "unless-stopped"):
        return True
    return word == "on-failure" and status != 0 and (not limit or restarts < int(limit))


def should_restart(container: Container) -> bool:
    """Whether this one does, now that it ended; never against the user's own stop."""
    if stopped_by_user(container):
        return False
    return wanted(container.spec.restart, container.status(), count(container)) or _unhealthy(container)


def stopped_by_user(container: Container) -> bool:
    """Whether `stop` or `kill` ended it."""
    return (container.run_dir / "stopped").exists()


def mark_stopped(container: Container) -> None:
    """Note that the user wants it down."""
    if container.run_dir.is_dir():
        (container.run_dir / "stopped").touch()


def mark_unhealthy(container: Container) -> None:
    """Note that the health check ends it in order to start it again, whatever the policy."""
    (container.run_dir / "restart-unhealthy").touch()


def _unhealthy(container: Container) -> bool:
    return (container.run_dir / "restart-unhealthy").exists()


def count(container: Container) -> int:
    """How often it was started again since the user started it."""
    try:
        return len((container.run_dir / "restarts").read_text().splitlines())
    except OSError:
        return 0


def counted(container: Container) -> None:
    """Count one restart."""
    with open(container.run_dir / "restarts", "a") as file:
        file.write(f"{time.time_ns()}\n")
    (container.run_dir / "restart-unhealthy").unlink(missing_ok=True)


def error(container: Container) -> str:
    """Why the last restart failed, or nothing."""
    try:
        return (container.run_dir / "restart-error").read_text()
    except OSError:
        return ""


def note(container: Container, why: str) -> None:
    """Keep why a restart failed for `inspect`."""
    if container.run_dir.is_dir():
        (container.run_dir / "restart-error").write_text(why)
