"""What a stranger's tar archive may not do, with Python's own filter and without (Debian 12)."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from host import archives


@pytest.fixture(params=["its own filter", "ours"], autouse=True)
def _filter(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "ours":
        monkeypatch.delattr(tarfile, "data_filter", raising=False)


def _member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", data: bytes = b"") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, link, len(data)
    return made


def _unpacked(folder: Path, *members: tarfile.TarInfo) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(b"x" * member.size))
    stream.seek(0)
    with tarfile.open(fileobj=stream, mode="r|*") as archive:
        archives.unpack(archive, folder)


def test_files_folders_and_links_of_its_own_come_out(tmp_path: Path) -> None:
    _unpacked(
        tmp_path,
        _member("d", tarfile.DIRTYPE),
        _member("d/file", data=b"x"),
        _member("d/soft", tarfile.SYMTYPE, "../d/file"),
        _member("hard", tarfile.LNKTYPE, "d/file"),
    )
    assert (tmp_path / "d/soft").read_text() == (tmp_path / "hard").read_text() == "x"


@pytest.mark.parametrize(
    "members",
    [
        [_member("../out", data=b"x")],
        [_member("soft", tarfile.SYMTYPE, "..")],
        [_member("soft", tarfile.SYMTYPE, "/etc/passwd")],
        [_member("hard", tarfile.LNKTYPE, "../secret")],
        [_member("null", tarfile.CHRTYPE)],
        [_member("pipe", tarfile.FIFOTYPE)],
    ],
)
def test_what_leads_out_is_refused(members: list[tarfile.TarInfo], tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("")
    folder = tmp_path / "in"
    folder.mkdir()
    with pytest.raises(tarfile.TarError):
        _unpacked(folder, *members)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "secret"]
