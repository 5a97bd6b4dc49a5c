"""The machines whose command line and XML are kept as golden files."""

from __future__ import annotations

from typing import Any

from vmm.launch import Launch
from vmm.spec import Command, Disk, Forward, MachineSpec, Nic, Share, replace

LAUNCH = Launch(run="/run/vmm/home/m", folder="/var/lib/vmm/instances/m", accel="tcg", tsc_khz=2_600_000)
KVM = replace(LAUNCH, accel="kvm")

_DISK = Disk(path="/var/lib/vmm/instances/m/disk.qcow2")
_KERNEL = {"kernel": "/k/bzimage", "initrd": "/k/initrd"}
_COMMAND = Command(argv=("echo", "hi"), env=("A=1",))

MICROVM = MachineSpec(
    name="m",
    boot="microvm",
    kernel="/k/vmlinux",
    initrd="/k/initrd",
    root="/dev/vda",
    command=_COMMAND,
    disks=(_DISK,),
    memory_bytes=128 << 20,
)
DIRECT = MachineSpec(
    name="m",
    boot="direct",
    **_KERNEL,
    root="/dev/vda",
    init="/sbin/init",
    hostname="m",
    disks=(_DISK,),
    nics=(Nic(mac="52:54:00:00:00:01", forwards=(Forward(host=2222, guest=22),)),),
    spare_ports=4,
    max_memory_bytes=1 << 30,
    max_cpus=4,
    seed="/var/lib/vmm/instances/m/seed.iso",
    balloon=True,
    agent=True,
)
UEFI = MachineSpec(
    name="m",
    boot="uefi",
    init="/sbin/init",
    disks=(_DISK, Disk(path="/iso,1", format="raw", cdrom=True)),
    firmware="/usr/share/OVMF/OVMF_CODE_4M.fd",
    firmware_vars="/var/lib/vmm/instances/m/vars.fd",
    tpm=True,
    display=True,
    cpus=2,
    uuid="8a9f4e9c-6d2a-4c7b-9c62-0d6f7f0b0c11",
    nics=(Nic(kind="network", network="bridge"),),
)
BIOS = MachineSpec(
    name="m", boot="bios", init="/sbin/init", disks=(replace(_DISK, format="vmdk", bus="sata"),)
)
PVH = MachineSpec(
    name="m",
    boot="pvh",
    kernel="/k/vmlinux",
    root="/dev/nvme0n1",
    disks=(replace(_DISK, bus="nvme"),),
    command=_COMMAND,
    cloneable=True,
    shares=(Share(source="/srv/a,b", target="/mnt", read_only=True),),
)
ARM = MachineSpec(
    name="m",
    arch="aarch64",
    boot="direct",
    **_KERNEL,
    root="/dev/vda",
    command=_COMMAND,
    disks=(_DISK,),
    shares=(Share(source="/srv", target="/mnt", kind="virtiofs", tag="srv"),),
)
GOLDEN: dict[str, tuple[MachineSpec, Launch]] = {
    "microvm": (MICROVM, LAUNCH),
    "direct": (DIRECT, LAUNCH),
    "direct-kvm": (DIRECT, KVM),
    "uefi": (UEFI, LAUNCH),
    "bios": (BIOS, LAUNCH),
    "pvh": (PVH, LAUNCH),
    "aarch64": (ARM, LAUNCH),
    "clone": (PVH, replace(LAUNCH, incoming=True, memory_file="/t/memory", memory_private=True)),
}

# One other value for each field of the spec: what a golden file must show.
OTHER: dict[str, tuple[MachineSpec, Any]] = {
    "name": (MICROVM, "n"),
    "uuid": (DIRECT, "8a9f4e9c-6d2a-4c7b-9c62-0d6f7f0b0c11"),
    "arch": (DIRECT, "aarch64"),
    "boot": (MICROVM, "pvh"),
    "machine": (DIRECT, "pc"),
    "cpu_model": (DIRECT, "max"),
    "memory_bytes": (DIRECT, 256 << 21),
    "max_memory_bytes": (DIRECT, 2 << 30),
    "cpus": (DIRECT, 2),
    "max_cpus": (DIRECT, 8),
    "kernel": (DIRECT, "/k/other"),
    "initrd": (DIRECT, "/k/other"),
    "append": (DIRECT, "single"),
    "firmware": (UEFI, "/f"),
    "firmware_vars": (UEFI, "/v"),
    "root": (DIRECT, "/dev/vdb"),
    "root_type": (DIRECT, "9p"),
    "init": (DIRECT, "/bin/init"),
    "hostname": (DIRECT, "h"),
    "disks": (DIRECT, (replace(_DISK, serial="s"),)),
    "nics": (DIRECT, (Nic(),)),
    "seed": (DIRECT, "/s"),
    "shares": (ARM, ()),
    "spare_ports": (DIRECT, 2),
    "balloon": (DIRECT, False),
    "vmgenid": (DIRECT, "8a9f4e9c-6d2a-4c7b-9c62-0d6f7f0b0c11"),
    "tpm": (UEFI, False),
    "agent": (DIRECT, False),
    "display": (UEFI, False),
    "cloneable": (DIRECT, True),
}
# Fields that say who starts the machine and what is done with it afterwards; no QEMU option is made of them.
NO_OPTION = {
    "template",
    "keep_identity",
    "driver",
    "uri",
    "accel",
    "command",
    "ephemeral",
    "autostart",
    "ssh_key",
    "ssh_user",
}
ALL = set(MachineSpec._fields)
