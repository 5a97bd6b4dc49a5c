"""A clone of a machine that stands still: its own disks, and at its first start an identity of its own.

The name and the machine-id reach the guest on its kernel's command line, before systemd reads the disk; files
of the same content and a host key are written by the helper, seconds before sshd looks for one. A disk that
boots without the helper gets a seed with a new instance-id: its cloud-init then makes name and keys anew.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from vmm.bringup import RENEW
from vmm.spec import MachineSpec, replace

if TYPE_CHECKING:
    from vmm.channel import Channel

_MACHINE_ID = "systemd.machine_id="
_RENEW_S = 30.0


def new_identity(spec: MachineSpec, folder: Path) -> MachineSpec:
    """The clone's spec with machine-id, MAC addresses and a key of its own; what its start needs is kept."""
    from vmm import ssh

    spec = replace(spec, nics=tuple(replace(nic, mac="") for nic in spec.nics), vmgenid=_fresh(spec.vmgenid))
    if spec.command_mode:
        return spec  # nothing of the image's was made into an identity
    ssh.make_key(folder, spec.name)
    spec = replace(spec, ssh_key="")
    if not (spec.kernel and spec.root):
        return spec
    identity = os.urandom(16).hex()
    (folder / RENEW).write_text(identity)
    words = [word for word in spec.append.split() if not word.startswith(_MACHINE_ID)]
    return replace(spec, append=" ".join([*words, f"{_MACHINE_ID}{identity}"]))


def _fresh(vmgenid: str) -> str:
    from uuid import uuid4

    return str(uuid4()) if vmgenid not in ("", "auto") else vmgenid


def copy_files(source: MachineSpec, spec: MachineSpec, full: bool) -> None:
    """Copy what is the machine's own: disks (`full`: with all that they stand on), variables, seed."""
    from host import commands
    from vmm import live

    if full:
        for old, new in zip(source.disks, spec.disks, strict=True):
            if old.path != new.path:
                words = ("qemu-img", "convert", "-f", old.format, "-O", new.format, old.path, new.path)
                commands.run(words, "cannot copy the disk", timeout_s=3600)
                os.chmod(new.path, 0o644)
    else:
        live.copy_disks(source, spec)
    if source.firmware_vars and Path(source.firmware_vars).exists():
        shutil.copyfile(source.firmware_vars, spec.firmware_vars)
    if source.seed:
        _copy_seed(Path(source.seed), Path(spec.seed), spec)


def _copy_seed(old: Path, new: Path, spec: MachineSpec) -> None:
    """The seed with the clone's name and an instance-id that cloud-init has not seen."""
    import yaml

    from images import seeds

    files = {name: data.decode() for name, data in seeds.read(old).items()}
    meta = {**yaml.safe_load(files["meta-data"]), "instance-id": spec.uuid, "local-hostname": spec.hostname}
    told = (files.get(name, "") for name in ("network-config", "vendor-data"))
    seeds.write(new, seeds.Seed(files.get("user-data", ""), meta, *told))


def renew(channel: Channel, folder: Path, spec: MachineSpec) -> None:
    """Write the clone's name, machine-id and host key at its first start."""
    from vmm import clones

    identity = (folder / RENEW).read_text()
    channel.put("/etc/machine-id", f"{identity}\n".encode(), 0o444)
    channel.put("/etc/hostname", f"{spec.hostname}\n".encode())
    clones.put_host_key(channel, spec.hostname)
    channel.settle(_RENEW_S)
    (folder / RENEW).unlink()
