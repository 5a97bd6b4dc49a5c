"""The command line and the XML of a machine, against files that a reviewer reads."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import specs
from capabilities import need

from vmm import domain_xml, qemu_argv
from vmm.kernel_line import kernel_line
from vmm.spec import check, replace

GOLDEN = Path(__file__).parent / "golden"


def _argv_text(name: str) -> str:
    return "".join(f"{word}\n" for word in qemu_argv.argv(*specs.GOLDEN[name]))


def _xml_text(name: str) -> str:
    return domain_xml.xml(*specs.GOLDEN[name], owner="+64055:+107")


def _same_as_file(text: str, path: Path) -> None:
    if os.environ.get("VMM_WRITE_GOLDEN"):
        path.write_text(text)
    assert text == path.read_text(), (
        f"VMM_WRITE_GOLDEN=1 pytest {__file__} writes it anew: read the difference"
    )


@pytest.mark.parametrize("name", specs.GOLDEN)
def test_the_command_line_is_the_golden_one(name: str) -> None:
    check(specs.GOLDEN[name][0])
    _same_as_file(_argv_text(name), GOLDEN / f"{name}.argv")


@pytest.mark.parametrize("name", specs.GOLDEN)
def test_the_xml_is_the_golden_one(name: str) -> None:
    _same_as_file(_xml_text(name), GOLDEN / f"{name}.xml")


@pytest.mark.parametrize("name", [name for name in specs.GOLDEN if name != "clone"])
def test_libvirts_own_schema_takes_the_xml(name: str, tmp_path: Path) -> None:
    need("libvirt")
    if shutil.which("xmllint") is None:
        pytest.skip("needs xmllint (libxml2-utils)")
    path = tmp_path / "domain.xml"
    path.write_text(_xml_text(name))
    done = subprocess.run(["virt-xml-validate", path, "domain"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_field_of_the_spec_is_either_shown_or_has_no_option() -> None:
    assert set(specs.OTHER) | specs.NO_OPTION == specs.ALL
    assert not set(specs.OTHER) & specs.NO_OPTION


@pytest.mark.parametrize("field", specs.OTHER)
def test_every_field_changes_the_command_line(field: str) -> None:
    before, value = specs.OTHER[field]
    after = replace(before, **{field: value})
    assert getattr(before, field) != value
    assert qemu_argv.argv(before, specs.LAUNCH) != qemu_argv.argv(after, specs.LAUNCH)


@pytest.mark.parametrize("field", specs.OTHER)
def test_every_field_changes_the_xml(field: str) -> None:
    before, value = specs.OTHER[field]
    after = replace(before, **{field: value})
    assert domain_xml.xml(before, specs.LAUNCH) != domain_xml.xml(after, specs.LAUNCH)


def test_sockets_that_are_handed_over_replace_paths() -> None:
    words = qemu_argv.argv(specs.MICROVM, replace(specs.LAUNCH, fds=(("ctl", 7),)))
    assert "socket,id=ctl,fd=7,server=on,wait=off" in words
    assert not any("id=ctl,path=" in word for word in words)


def test_a_comma_in_a_path_stays_in_the_path() -> None:
    words = qemu_argv.argv(specs.UEFI, specs.LAUNCH)
    assert any("file.filename=/iso,,1" in word for word in words)


@pytest.mark.parametrize(
    ("changes", "disabled"),
    [
        ({"seed": ""}, True),
        ({}, False),  # its seed
        ({"seed": "", "disks": (*specs.DIRECT.disks, specs.DIRECT.disks[0])}, False),  # one may be on it
        ({"seed": "", "init": None}, False),  # no systemd, no cloud-init
    ],
)
def test_cloud_init_looks_for_a_seed_only_where_one_may_be(
    changes: dict[str, object], disabled: bool
) -> None:
    spec = replace(specs.GOLDEN["direct"][0], **changes)
    assert ("cloud-init=disabled" in kernel_line(spec, specs.GOLDEN["direct"][1]).split()) is disabled
