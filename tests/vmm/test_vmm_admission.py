"""Machines that boot at once: two a core, the next waits, and a place of a dead process is free."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from host.errors import DeadlinePassed
from vmm import admission


def test_one_more_than_there_are_places_waits_for_one_to_come_up(tmp_path: Path) -> None:
    places = [admission.take(tmp_path, 1) for _ in range(admission.STARTS_A_CORE * (os.cpu_count() or 1))]
    with pytest.raises(DeadlinePassed, match="are booting"):
        admission.take(tmp_path, 0.05)
    os.close(places.pop())
    places.append(admission.take(tmp_path, 1))
    for fd in places:
        os.close(fd)


def test_the_place_of_a_killed_start_is_free_at_once(tmp_path: Path) -> None:
    script = (
        "import sys, os, signal; from pathlib import Path; from vmm import admission\n"
        "[admission.take(Path(sys.argv[1]), 1) for _ in range(admission.STARTS_A_CORE * os.cpu_count())]\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    os.close(admission.take(tmp_path, 0.05))
