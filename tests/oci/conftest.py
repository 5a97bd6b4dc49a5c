"""A bundle for each test, whose container goes with it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from capabilities import need
from oci_lab import Bundle


@pytest.fixture
def bundle(tmp_path: Path) -> Iterator[Bundle]:
    need("root", "busybox", "cgroup")
    made = Bundle(tmp_path)
    yield made
    made.oci("delete", "--force", made.name)
    for base in Path("/sys/fs/cgroup").glob("*/vmm-oci-test"):
        try:
            os.rmdir(base)
        except OSError:
            pass  # another test's container is there
