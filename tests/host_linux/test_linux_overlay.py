"""overlay(2) with more layers than one value of fsconfig(2) takes, on new kernels and on those before 6.7."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from capabilities import need

from host.linux import syscalls as sc


def _options(where: Path, layers: int) -> bytes:
    lower = []
    for number in range(layers):
        folder = where / f"layer-{number}-{'x' * 60}"
        folder.mkdir()
        (folder / f"of-{number}").write_text("")
        lower.append(str(folder))
    for name in ("upper", "work"):
        (where / name).mkdir()
    return os.fsencode(f"lowerdir={':'.join(lower)},upperdir={where}/upper,workdir={where}/work")


@pytest.mark.parametrize("knows_lowerdir_plus", [True, False])
@pytest.mark.parametrize("layers", [1, 8])
def test_every_layer_is_there(
    layers: int, knows_lowerdir_plus: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("root", "overlay")
    if not knows_lowerdir_plus:
        monkeypatch.setattr(sc, "_short", lambda option: [option])  # the kernel says EINVAL to the long one
    mounted = sc.overlay(_options(tmp_path, layers))
    try:
        root = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=mounted)  # fsmount's own is O_PATH
        try:
            assert sorted(os.listdir(root)) == [f"of-{number}" for number in range(layers)]
        finally:
            os.close(root)
    finally:
        os.close(mounted)
