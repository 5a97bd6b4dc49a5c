"""What a machine is: one frozen description, without I/O, that both drivers render and the record keeps."""

from __future__ import annotations

import re
from typing import Any, NamedTuple, TypeVar

from host.errors import Unsupported, Usage

DRIVERS = ("qemu", "libvirt")
ACCELERATORS = ("auto", "kvm", "tcg")
BOOTS = ("bios", "uefi", "direct", "pvh", "microvm")
DISK_FORMATS = ("raw", "qcow2", "vmdk", "vdi", "vpc", "vhdx")
ARCHITECTURES = ("x86_64", "aarch64")
KERNEL_BOOTS = ("direct", "pvh", "microvm")
FIRMWARE_BOOTS = ("bios", "uefi")
SMALLEST_MEMORY_BYTES = 32 << 20
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}")
_MAC = re.compile(r"(?:[0-9a-f]{2}:){5}[0-9a-f]{2}")


class Disk(NamedTuple):
    """One block device: a file, its format, and how the guest sees it."""

    path: str
    format: str = "qcow2"
    serial: str = ""
    bus: str = "virtio"
    read_only: bool = False
    cdrom: bool = False


class Forward(NamedTuple):
    """A port of the host that leads to a port of the guest (user network only)."""

    host: int
    guest: int
    host_ip: str = "127.0.0.1"
    protocol: str = "tcp"


class Nic(NamedTuple):
    """One network card: `user` is QEMU's own NAT, `network` a bridge of ours by name, `libvirt` its own."""

    kind: str = "user"
    mac: str = ""
    network: str = ""
    ip: str = ""
    forwards: tuple[Forward, ...] = ()


class Share(NamedTuple):
    """A folder of the host that the guest mounts at `target`."""

    source: str
    target: str
    tag: str = ""
    kind: str = "9p"
    read_only: bool = False


class Command(NamedTuple):
    """What a machine in command mode runs under the guest helper."""

    argv: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: str = ""


class MachineSpec(NamedTuple):
    """A machine as asked for; paths are absolute, sizes are bytes.

    `init` None is command mode: the guest helper stays pid 1 and runs `command`; a path is system mode.
    `uri` is the libvirt that has it, empty for the default one.
    `root` is the device that the helper mounts, empty where the guest boots itself (bios, uefi).
    """

    name: str
    uuid: str = ""
    driver: str = "qemu"
    uri: str = ""
    accel: str = "auto"
    arch: str = "x86_64"
    boot: str = "microvm"
    machine: str = ""
    cpu_model: str = ""
    memory_bytes: int = 256 << 20
    max_memory_bytes: int = 0
    cpus: int = 1
    max_cpus: int = 0
    kernel: str = ""
    initrd: str = ""
    append: str = ""
    firmware: str = ""
    firmware_vars: str = ""
    root: str = ""
    root_type: str = "ext4"
    init: str | None = None
    hostname: str = ""
    command: Command = Command()
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    seed: str = ""
    shares: tuple[Share, ...] = ()
    spare_ports: int = 0
    balloon: bool = False
    vmgenid: str = ""
    tpm: bool = False
    agent: bool = False
    display: bool = False
    cloneable: bool = False
    template: str = ""
    keep_identity: bool = False
    ephemeral: bool = False
    autostart: bool = False
    ssh_key: str = ""
    ssh_user: str = ""

    @property
    def command_mode(self) -> bool:
        """Whether the guest helper is pid 1 and the machine lives as long as its command."""
        return self.init is None and bool(self.kernel)

    @property
    def reaches_ssh(self) -> bool:
        """Whether the guest's port 22 is forwarded to a port of the host."""
        return any(one.guest == 22 and one.protocol == "tcp" for nic in self.nics for one in nic.forwards)

    def to_record(self) -> dict[str, Any]:
        """The spec as JSON data: what `instance.json` keeps under `spec`."""
        return {name: _plain(value) for name, value in self._asdict().items()}


def _plain(value: Any) -> Any:
    """A field as JSON data: records become objects, and so do those inside tuples."""
    if hasattr(value, "_asdict"):
        return {name: _plain(one) for name, one in value._asdict().items()}
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


Record = TypeVar("Record", bound=NamedTuple)


def replace(record: Record, **changes: Any) -> Record:
    """A copy of a spec, a part of one, or a launch with other values in some fields.

    They are named tuples and no dataclasses: those would cost each `vmm run --vm` 20 ms of imports.
    """
    return record._replace(**changes)


_NESTED: dict[str, type[Any]] = {"disks": Disk, "nics": Nic, "shares": Share}


def from_record(record: dict[str, Any]) -> MachineSpec:
    """The spec that `to_record` wrote; fields of a newer vmm are left out."""
    known = MachineSpec._fields
    words = {key: value for key, value in record.items() if key in known}
    for key, kind in _NESTED.items():
        words[key] = tuple(_one(kind, item) for item in words.get(key, ()))
    words["command"] = _command(words.get("command", {}))
    return MachineSpec(**words)


def _command(record: dict[str, Any]) -> Command:
    words = dict(record)
    for key in ("argv", "env"):
        words[key] = tuple(words.get(key, ()))
    return Command(**words)


def _one(kind: type[Any], record: dict[str, Any]) -> Any:
    words = dict(record)
    if kind is Nic:
        words["forwards"] = tuple(Forward(**item) for item in words.get("forwards", ()))
    return kind(**words)


def check(spec: MachineSpec) -> MachineSpec:
    """The spec itself, when both drivers can make sense of it.

    Raises Usage for words that are wrong, Unsupported for combinations that no driver has.
    """
    _check_words(spec)
    _check_sizes(spec)
    _check_boot(spec)
    for disk in spec.disks:
        _one_of("disk format", disk.format, DISK_FORMATS)
    for nic in spec.nics:
        _one_of("kind of network card", nic.kind, ("user", "network", "libvirt"))
        if nic.kind == "libvirt" and spec.driver != "libvirt":
            raise Unsupported("only libvirt has the network", nic.network, hint="--driver libvirt")
        if nic.mac and not _MAC.fullmatch(nic.mac):
            raise Usage(
                "cannot read the MAC address", repr(nic.mac), "not six pairs of lower-case hex digits"
            )
    return spec


def _check_words(spec: MachineSpec) -> None:
    if not _NAME.fullmatch(spec.name):
        raise Usage("cannot use the name", repr(spec.name), "letters, digits, _ . - only, 63 at most")
    _one_of("driver", spec.driver, DRIVERS)
    _one_of("accelerator", spec.accel, ACCELERATORS)
    _one_of("boot mode", spec.boot, BOOTS)
    _one_of("architecture", spec.arch, ARCHITECTURES)


def _one_of(what: str, word: str, words: tuple[str, ...]) -> None:
    if word not in words:
        raise Usage(f"unknown {what}", repr(word), f"known are {', '.join(words)}")


def _check_sizes(spec: MachineSpec) -> None:
    if spec.memory_bytes < SMALLEST_MEMORY_BYTES:
        why = f"{spec.memory_bytes >> 20} MiB is below the {SMALLEST_MEMORY_BYTES >> 20} MiB that Linux needs"
        raise Usage("cannot use the memory size", why=why, hint="--memory 128M runs every image of ours")
    if spec.memory_bytes % (1 << 20):
        raise Usage("cannot use the memory size", str(spec.memory_bytes), "QEMU wants whole MiB")
    if spec.cpus < 1 or (spec.max_cpus and spec.max_cpus < spec.cpus):
        why = "a machine has at least 1" if spec.cpus < 1 else f"this machine has room for {spec.max_cpus}"
        raise Usage("cannot use the number of cpus", str(spec.cpus), why)
    if spec.max_memory_bytes and spec.max_memory_bytes < spec.memory_bytes:
        raise Usage(
            "cannot use the largest memory", str(spec.max_memory_bytes), "it is below the memory asked for"
        )


def _check_boot(spec: MachineSpec) -> None:
    where = f"boot mode {spec.boot}"
    if spec.boot in KERNEL_BOOTS and not spec.kernel:
        raise Usage(
            f"{where} needs a kernel", hint="--kernel cloud, or --boot bios|uefi to boot the disk itself"
        )
    if spec.boot == "bios" and spec.arch != "x86_64":
        raise Unsupported(f"{spec.arch} has no BIOS", hint="--boot uefi or --boot direct")
    if spec.boot in ("pvh", "microvm") and spec.arch != "x86_64":
        raise Unsupported(f"{where} is for x86_64 only", hint="--boot direct")
    if spec.boot == "microvm" and (spec.max_cpus or spec.max_memory_bytes or spec.spare_ports):
        raise Unsupported("a microvm has no hotplug", spec.name, hint="--boot pvh or --boot direct")
    if spec.boot == "microvm" and spec.tpm:
        raise Unsupported("a microvm has no TPM", spec.name, hint="--boot uefi")
    if spec.cloneable and any(share.kind == "virtiofs" for share in spec.shares):
        raise Unsupported("a machine with a virtiofs share cannot be cloned live", spec.name, hint="use 9p")
