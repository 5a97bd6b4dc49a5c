"""The spec of a machine: what is refused, and that a record gives it back."""

from __future__ import annotations

import json
from typing import Any

import pytest
import specs

from host.errors import Failure
from vmm.spec import Disk, MachineSpec, Nic, check, from_record, replace


@pytest.mark.parametrize("name", specs.GOLDEN)
def test_a_record_gives_the_spec_back(name: str) -> None:
    spec = specs.GOLDEN[name][0]
    assert from_record(json.loads(json.dumps(spec.to_record()))) == spec


def test_a_record_of_a_newer_vmm_is_read() -> None:
    assert from_record({**specs.BIOS.to_record(), "not_known_yet": 1}) == specs.BIOS


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "a/b"}, "cannot use the name"),
        ({"memory_bytes": 1 << 20}, "is below"),
        ({"memory_bytes": (64 << 20) + 1}, "whole MiB"),
        ({"cpus": 0}, "number of cpus"),
        ({"kernel": ""}, "needs a kernel"),
        ({"boot": "floppy"}, "unknown boot mode"),
        ({"spare_ports": 1}, "no hotplug"),
        ({"tpm": True}, "no TPM"),
        ({"arch": "aarch64"}, "x86_64 only"),
        ({"disks": (Disk(path="/d", format="zip"),)}, "unknown disk format"),
        ({"nics": (Nic(mac="52:54"),)}, "MAC"),
        ({"driver": "xen"}, "unknown driver"),
    ],
)
def test_a_wrong_spec_is_refused_in_one_sentence(change: dict[str, Any], words: str) -> None:
    with pytest.raises(Failure) as refused:
        check(replace(specs.MICROVM, **change))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_command_mode_is_a_kernel_boot_without_an_init() -> None:
    assert specs.MICROVM.command_mode
    assert not specs.DIRECT.command_mode
    assert not MachineSpec(name="m", boot="uefi").command_mode
