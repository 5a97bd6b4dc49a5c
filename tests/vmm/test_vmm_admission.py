"""Machines that boot at once: two a core, the next waits, and a place of a dead process is free."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from host.errors import DeadlinePassed
from vmm import admission


def test_one_more_than_there_are_places_waits_for_one_to_come_up(tmp_path: Path) -> None:
    places = [admission.take(tmp_path, 1) for _ in range(admission.STARTS_A_CORE * (os.cpu_count() or 1))]
    with pytest.raises(DeadlinePassed, match="were booting"):
        admission.take(tmp_path, 0.05)
    os.close(places.pop())
    places.append(admission.take(tmp_path, 1))
    for fd in places:
        os.close(fd)


def test_a_core_on_which_one_boots_is_not_asked_for_at_once(tmp_path: Path) -> None:
    cores = os.cpu_count() or 1
    began = time.monotonic()
    places = [admission.take(tmp_path, 10) for _ in range(cores)]
    assert time.monotonic() - began < 0.5
    places.append(admission.take(tmp_path, 10))
    assert time.monotonic() - began > 0.9
    for fd in places:
        os.close(fd)


def test_who_queued_before_its_work_keeps_that_place_for_its_boot(tmp_path: Path) -> None:
    places = [admission.take(tmp_path, 1) for _ in range(admission.STARTS_A_CORE * (os.cpu_count() or 1) - 1)]
    admission.queue(tmp_path)
    with pytest.raises(DeadlinePassed):
        admission.take(tmp_path, 0.05)
    booting = admission.boot(tmp_path, 0.01, lambda: SimpleNamespace(place=-1))  # type: ignore[arg-type, return-value]
    admission.let_go()  # it is the boot's now
    with pytest.raises(DeadlinePassed):
        admission.take(tmp_path, 0.05)
    os.close(booting.place)
    admission.queue(tmp_path)
    admission.let_go()
    for fd in [*places, admission.take(tmp_path, 0.05)]:
        os.close(fd)


def test_the_place_of_a_killed_start_is_free_at_once(tmp_path: Path) -> None:
    script = (
        "import sys, os, signal; from pathlib import Path; from vmm import admission\n"
        "[admission.take(Path(sys.argv[1]), 1) for _ in range(admission.STARTS_A_CORE * os.cpu_count())]\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=False)
    os.close(admission.take(tmp_path, 0.05))
