"""Seeds: what cloud-init would silently ignore is refused with line and reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from host.errors import BadData
from images import seeds

META = {"instance-id": "i-1", "local-hostname": "box"}
NETWORK = {"version": 2, "ethernets": {"nic": {"match": {"name": "e*"}, "addresses": ["10.0.2.15/24"]}}}


def test_a_seed_holds_what_it_was_given(tmp_path: Path) -> None:
    seed = seeds.Seed("#cloud-config\nhostname: box\n", META, NETWORK, "#cloud-config\nruncmd: [true]\n")
    files = seeds.read(seeds.write(tmp_path / "seed.iso", seed))
    assert sorted(files) == ["meta-data", "network-config", "user-data", "vendor-data"]
    assert files["user-data"] == b"#cloud-config\nhostname: box\n"
    assert seeds.load_yaml(files["network-config"].decode(), "network-config") == NETWORK


def test_the_volume_is_labelled_cidata(tmp_path: Path) -> None:
    data = seeds.write(tmp_path / "seed.iso", seeds.Seed(meta=META)).read_bytes()
    # ECMA-119 8.4: the primary volume descriptor is sector 16, the volume identifier its bytes 41 to 72.
    assert data[16 * 2048 + 40 :][:32].strip() == b"cidata"


def test_a_seed_is_private(tmp_path: Path) -> None:
    path = seeds.write(tmp_path / "seed.iso", seeds.Seed(meta=META))
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("text", "where", "why"),
    [
        ("hostname: box\n", "line 1", "missing"),
        ("# cloud-config\nhostname: box\n", "line 1", "not quite"),
        ("\n#cloud-config\nhostname: box\n", "line 1", "missing"),
        ("\ufeff#cloud-config\n", "line 1", "not quite"),
        ("#Cloud-Config\n", "line 1", "not quite"),
        ("#cloud-config\nusers: [a\nb: 2\n", "line 3", "expected"),
        ("#cloud-config\nhostname: box\n\tfqdn: x\n", "line 3", "cannot start any token"),
        ("#cloud-config\nhostname: a\nruncmd: []\nhostname: b\n", "line 4", "twice"),
        ("#cloud-config\nusers:\n  - name: a\n    name: b\n", "line 4", "twice"),
        ("#cloud-config\n- a\n- b\n", "line 2", "no mapping"),
        ("## template: jinja\nhostname: x\n", "line 2", "missing"),
    ],
)
def test_broken_user_data_is_refused_with_line_and_reason(
    tmp_path: Path, text: str, where: str, why: str
) -> None:
    with pytest.raises(BadData) as caught:
        seeds.write(tmp_path / "seed.iso", seeds.Seed(text, META))
    assert where in caught.value.on
    assert why in caught.value.why
    assert not (tmp_path / "seed.iso").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "#cloud-config\n",
        "#!/bin/sh\necho\n",
        "#include\nfile\n",
        "## template: jinja\n#cloud-config\na: {{ b }}\n",
    ],
)
def test_every_format_of_cloud_init_is_taken(text: str) -> None:
    seeds.check_user_data(text, "user-data")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("version: 1\nconfig: []\n", "version: 2"),
        ("ethernets: {}\n", "version: 2"),
        ("version: 2\nethernet: {}\n", "unknown key"),
        ("version: 2\nethernets: [eth0]\n", "no mapping"),
        ("version: 2\nethernets: {\n", "expected"),
    ],
)
def test_a_broken_network_is_refused(text: str, why: str) -> None:
    with pytest.raises(BadData) as caught:
        seeds.render(seeds.Seed(meta=META, network=text))
    assert why in caught.value.why
    assert "line" in caught.value.on


def test_a_seed_without_an_instance_id_is_refused() -> None:
    with pytest.raises(BadData, match="instance-id"):
        seeds.render(seeds.Seed(meta={"local-hostname": "x"}))
