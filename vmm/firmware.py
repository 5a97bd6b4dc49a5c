"""Which firmware a machine boots by: OVMF with variables of its own, the ARM build for aarch64."""

from __future__ import annotations

import shutil
from pathlib import Path

from host.errors import HostUnfit
from vmm.spec import MachineSpec, replace

# Code and variables, in order of preference; Debian's packages ovmf and qemu-efi-aarch64.
_UEFI = {
    "x86_64": (
        ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
        ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ),
    "aarch64": (("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),),
}
_PACKAGE = {"x86_64": "ovmf", "aarch64": "qemu-efi-aarch64"}


def completed(spec: MachineSpec, folder: Path) -> MachineSpec:
    """The spec with the firmware that its boot mode means, and a screen where firmware draws one; no
    effects."""
    if spec.boot == "bios":
        return replace(spec, display=True)
    if spec.boot != "uefi" or spec.firmware:
        return spec
    code, _ = files(spec.arch)
    return replace(spec, firmware=code, firmware_vars=str(folder / "vars.fd"), display=True)


def files(arch: str) -> tuple[str, str]:
    """Code and template of the variables; the first pair where none is installed, so that a plan can be
    drawn."""
    pairs = _UEFI[arch]
    return next((pair for pair in pairs if Path(pair[0]).exists()), pairs[0])


def lay_out(spec: MachineSpec) -> None:
    """Give the machine its own copy of the variables on its first start; HostUnfit where OVMF is missing."""
    if spec.boot != "uefi":
        return
    if not Path(spec.firmware).exists():
        hint = f"apt-get install {_PACKAGE[spec.arch]}"
        raise HostUnfit("cannot boot by UEFI", spec.name, f"{spec.firmware} is not there", hint)
    if spec.firmware_vars and not Path(spec.firmware_vars).exists():
        shutil.copyfile(files(spec.arch)[1], spec.firmware_vars)
