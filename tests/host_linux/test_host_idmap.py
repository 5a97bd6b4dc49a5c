"""Maps of user namespaces: from /etc/subuid, or one id alone."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from capabilities import need

from host.errors import Failure
from host.linux import idmap
from host.linux.idmap import IdMaps


def test_a_range_is_found_by_name_or_number(tmp_path):
    file = tmp_path / "subuid"
    file.write_text("other:1:2\nroot:100000:65536\n")
    assert idmap._subordinate(str(file), 0) == (100000, 65536)
    file.write_text("0:7:8\n")
    assert idmap._subordinate(str(file), 0) == (7, 8)
    file.write_text("root:bad:8\n")
    assert idmap._subordinate(str(file), 0) is None
    assert idmap._subordinate(str(tmp_path / "none"), 0) is None


def test_more_than_one_id_makes_it_whole():
    assert not IdMaps(((0, 1000, 1),), ((0, 1000, 1),)).whole()
    assert IdMaps(((0, 1000, 1), (1, 100000, 65536)), ()).whole()


def test_work_inside_is_done_with_mapped_ids():
    need("root", "userns")
    where = Path(tempfile.mkdtemp(dir="/tmp"))  # pytest's own directory is root's alone
    os.chown(where, 100000, 100000)
    maps = IdMaps(((0, 100000, 10),), ((0, 100000, 10),))

    def work() -> None:
        (where / "made").touch()
        os.chown(where / "made", 3, 4)

    idmap.inside(maps, work, "cannot work")
    seen = (where / "made").stat()
    shutil.rmtree(where)
    assert (seen.st_uid, seen.st_gid) == (100003, 100004)


def test_an_error_inside_is_told_outside(tmp_path):
    need("root", "userns")
    maps = IdMaps(((0, 100000, 1),), ((0, 100000, 1),))
    with pytest.raises(Failure, match="cannot work: Permission denied"):
        idmap.inside(maps, lambda: os.mkdir(tmp_path / "x"), "cannot work")
