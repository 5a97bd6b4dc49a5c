"""A machine as QEMU's command line: pure, printable, golden files in tests/vmm/golden."""

from __future__ import annotations

import shlex

from vmm import ports
from vmm.kernel_line import kernel_line
from vmm.launch import CHANNELS, Launch
from vmm.spec import Disk, MachineSpec, Nic, Share

QBOOT = "/usr/share/qemu/qboot.rom"
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
MEMORY_SLOTS = 4
_MIB = 1 << 20


def argv(spec: MachineSpec, launch: Launch) -> list[str]:
    """The arguments, program first, that start `spec`; sockets by path unless `launch.fds` has them."""
    return [
        launch.qemu,
        *("-name", f"guest={escape(spec.name)},debug-threads=on"),
        *("-no-user-config", "-nodefaults", "-display", "none", "-sandbox", SANDBOX),
        *(("-no-reboot",) if spec.kernel else ()),
        *_machine(spec, launch),
        *_memory(spec, launch),
        *_boot(spec, launch),
        *("-pidfile", f"{launch.run}/pid"),
        *_monitors(launch),
        *_serial(spec, launch),
        *_ports(spec, launch),
        *_entropy(spec),
        *_all_disks(spec),
        *_all_nics(spec, launch),
        *_all_shares(spec, launch),
        *_extras(spec, launch),
        *incoming(spec, launch),
        *(("-S",) if launch.paused else ()),
    ]


def incoming(spec: MachineSpec, launch: Launch) -> list[str]:
    """The words of a QEMU that waits for a state.

    After a migration QEMU has the guest tell its network where it is now, five times, and each time whatever
    watches the network wakes up inside. A clone was nowhere else. Once is the least: told to do without, QEMU
    7.2 ends when the guest resets its card (timer_del of no timer).
    """
    silent = ["-global", "migration.announce-rounds=1"] if launch.memory_private and spec.nics else []
    return ["-incoming", "defer", *silent] if launch.incoming else []


def escape(text: str) -> str:
    """A value inside QEMU's comma-separated options: a comma is written twice."""
    return text.replace(",", ",,")


def bus(spec: MachineSpec) -> str:
    """How virtio devices attach: microvm has only virtio-mmio slots, every other machine PCI."""
    return "device" if spec.boot == "microvm" else "pci"


def machine_type(spec: MachineSpec) -> str:
    """The machine type: as asked for, else what the boot mode and the architecture call for."""
    if spec.machine:
        return spec.machine
    if spec.arch == "aarch64":
        return "virt"
    return "microvm" if spec.boot == "microvm" else "q35"


def cpu_model(spec: MachineSpec, launch: Launch) -> str:
    """The CPU model: as asked for, else the host's own under KVM and the plain one that TCG runs fastest."""
    if spec.cpu_model:
        return spec.cpu_model
    if launch.accel == "kvm":
        return "host"
    return "cortex-a72" if spec.arch == "aarch64" else "qemu64"


def cpu_features(spec: MachineSpec, launch: Launch) -> tuple[str, ...]:
    """What is added to the CPU model.

    A microvm has no second timer that could wake a processor whose own stopped in idle, so without the
    promise that it never stops (ARAT) Linux ticks 250 times a second for ever: 4 % of a core, emulated.
    """
    bare = spec.boot == "microvm" and launch.accel == "tcg" and not spec.cpu_model
    return ("arat",) if bare else ()


def tb_size_mib(spec: MachineSpec) -> int:
    """The TCG translation buffer in MiB: a quarter of the guest's memory, for QEMU's own default is 1 GiB."""
    return min(max(spec.memory_bytes // _MIB // 4, 32), 512)


def _machine(spec: MachineSpec, launch: Launch) -> list[str]:
    options = [machine_type(spec)]
    if spec.boot == "microvm":
        options += ["acpi=on", "rtc=on", "pit=off", "pic=off"]
    if spec.boot == "uefi":
        options += ["pflash0=firmware", "pflash1=vars"]
    if _backend(spec, launch):
        options.append("memory-backend=ram")
    accel = f"tcg,tb-size={tb_size_mib(spec)}" if launch.accel == "tcg" else "kvm"
    if launch.accel == "tcg" and spec.cpus > 1:
        accel += ",thread=multi"
    model = ",+".join((cpu_model(spec, launch), *cpu_features(spec, launch)))
    words = ["-machine", ",".join(options), "-accel", accel, "-cpu", model]
    top = f",maxcpus={spec.max_cpus}" if spec.max_cpus else ""
    words += ["-smp", f"{spec.cpus}{top}"]
    return words + (["-uuid", spec.uuid] if spec.uuid else [])


def _backend(spec: MachineSpec, launch: Launch) -> bool:
    return spec.cloneable or bool(launch.memory_file) or any(s.kind == "virtiofs" for s in spec.shares)


def _memory(spec: MachineSpec, launch: Launch) -> list[str]:
    size = f"{spec.memory_bytes // _MIB}M"
    slots = f",slots={MEMORY_SLOTS},maxmem={spec.max_memory_bytes // _MIB}M" if spec.max_memory_bytes else ""
    words = ["-m", f"size={size}{slots}"]
    if not _backend(spec, launch):
        return words
    return [*words, "-object", memory_object(spec, launch)]


def memory_object(spec: MachineSpec, launch: Launch) -> str:
    """The memory as an object `ram`: what a template's state, and a virtiofsd, know it by."""
    size = f"{spec.memory_bytes // _MIB}M"
    if not launch.memory_file:
        return f"memory-backend-memfd,id=ram,size={size},share=on"
    share = "off" if launch.memory_private else "on"
    return f"memory-backend-file,id=ram,size={size},mem-path={escape(launch.memory_file)},share={share}"


def _boot(spec: MachineSpec, launch: Launch) -> list[str]:
    if spec.boot == "uefi":
        words = [*_pflash("firmware", spec.firmware, True), *_pflash("vars", spec.firmware_vars, False)]
    else:
        words = ["-bios", spec.firmware] if spec.firmware else []
    if spec.boot == "pvh" and not spec.firmware and not spec.vmgenid:
        words = ["-bios", QBOOT]  # qboot never boots a machine with vmgenid
    if not spec.kernel:
        return words
    words += ["-kernel", spec.kernel]
    words += ["-initrd", spec.initrd] if spec.initrd else []
    return [*words, "-append", kernel_line(spec, launch)]


def _pflash(node: str, path: str, read_only: bool) -> list[str]:
    ro = ",read-only=on" if read_only else ""
    return ["-blockdev", f"driver=raw,node-name={node},file.driver=file,file.filename={escape(path)}{ro}"]


def _socket(name: str, launch: Launch, more: str = "") -> list[str]:
    fd = launch.fd(name)
    where = f"path={escape(launch.run)}/{name}" if fd is None else f"fd={fd}"
    # We called before QEMU began, so it need not wait. A port that is born connected, as the frozen one was,
    # spares a clone's guest the news of a connection.
    wait = "on" if fd is not None and name == CHANNELS[0] else "off"
    return ["-chardev", f"socket,id={name},{where},server=on,wait={wait}{more}"]


def _monitors(launch: Launch) -> list[str]:
    words = []
    for name in ("ctl", "query"):
        words += [*_socket(name, launch), "-mon", f"chardev={name},mode=control"]
    return words


def _serial(spec: MachineSpec, launch: Launch) -> list[str]:
    log = f",logfile={escape(launch.folder)}/serial.log,logappend=on"
    return [*_socket("serial", launch, log), "-serial", "chardev:serial"]


def _ports(spec: MachineSpec, launch: Launch) -> list[str]:
    most = f",max_ports={ports.MOST}" if ports.on_demand(spec) else ""
    words = ["-device", f"virtio-serial-{bus(spec)},id=ports{most}"]
    for name in launch.ports or ports.born(spec):
        if name in ports.FILES:
            append = "on" if name == "log" else "off"
            path = escape(f"{launch.folder}/{name}")
            words += ["-chardev", f"file,id={name},path={path},append={append}"]
        else:
            words += _socket(name, launch)
        words += ["-device", _device(ports.properties(spec, name))]
    return words


def _device(properties: dict[str, object]) -> str:
    driver, *others = properties.items()
    return ",".join([str(driver[1]), *(f"{key}={value}" for key, value in others)])


def _entropy(spec: MachineSpec) -> list[str]:
    source = ["-object", "rng-random,id=entropy,filename=/dev/urandom"]
    return [*source, "-device", f"virtio-rng-{bus(spec)},rng=entropy"]


def _all_disks(spec: MachineSpec) -> list[str]:
    disks = list(spec.disks)
    if spec.seed:
        disks.append(Disk(path=spec.seed, format="raw", serial="seed", read_only=True))
    words: list[str] = []
    for number, disk in enumerate(disks):
        words += _disk(spec, disk, number)
    return words


def _disk(spec: MachineSpec, disk: Disk, number: int) -> list[str]:
    node, ro = f"disk{number}", ",read-only=on" if disk.read_only or disk.cdrom else ""
    file = f"file.driver=file,file.filename={escape(disk.path)}"
    words = ["-blockdev", f"driver={disk.format},node-name={node},discard=unmap,{file}{ro}"]
    serial = f",serial={escape(disk.serial)}" if disk.serial else ""
    device = {"nvme": "nvme", "sata": "ide-hd"}.get(disk.bus, f"virtio-blk-{bus(spec)}")
    if device == "nvme":
        serial = serial or f",serial={node}"  # the NVMe controller refuses to be without one
    if disk.cdrom and spec.boot != "microvm" and spec.arch == "x86_64":
        device, serial = "ide-cd", ""
    first = "" if spec.kernel else f",bootindex={number + 1}"
    return [*words, "-device", f"{device},id=dev-{node},drive={node}{serial}{first}"]


def _all_nics(spec: MachineSpec, launch: Launch) -> list[str]:
    words: list[str] = []
    for number, nic in enumerate(spec.nics):
        words += _nic(spec, nic, number, launch)
    return words


def _nic(spec: MachineSpec, nic: Nic, number: int, launch: Launch) -> list[str]:
    name = f"net{number}"
    mac = f",mac={nic.mac}" if nic.mac else ""
    rom = ",romfile=" if bus(spec) == "pci" else ""  # no PXE: EFI would wait minutes for a network boot
    return [
        "-netdev",
        _netdev(nic, name, launch),
        "-device",
        f"virtio-net-{bus(spec)},id=dev-{name},netdev={name}{mac}{rom}",
    ]


def _netdev(nic: Nic, name: str, launch: Launch) -> str:
    if nic.kind == "network":
        fd = launch.fd(name)
        return f"tap,id={name}," + ("script=no,downscript=no" if fd is None else f"fd={fd}")
    forwards = [f",hostfwd={hostfwd(f.protocol, f.host_ip, f.host, f.guest)}" for f in nic.forwards]
    return f"user,id={name}{''.join(forwards)}"


def hostfwd(protocol: str, host_ip: str, host: int, guest: int) -> str:
    """A port forward in the words of QEMU's user network."""
    return f"{protocol}:{host_ip}:{host}-:{guest}"


def _all_shares(spec: MachineSpec, launch: Launch) -> list[str]:
    words = modern_mmio(spec)
    for number, share in enumerate(spec.shares):
        words += _share(spec, share, number, launch)
    return words


def modern_mmio(spec: MachineSpec) -> list[str]:
    """The words that microvm needs for virtiofs: vhost-user serves no virtio device of the older form."""
    legacy = spec.boot == "microvm" and any(share.kind == "virtiofs" for share in spec.shares)
    return ["-global", "virtio-mmio.force-legacy=false"] if legacy else []


def _share(spec: MachineSpec, share: Share, number: int, launch: Launch) -> list[str]:
    name, tag = f"share{number}", share.tag or f"share{number}"
    if share.kind == "virtiofs":
        chardev = ["-chardev", f"socket,id={name},path={escape(launch.run)}/{name}"]
        return [*chardev, "-device", f"vhost-user-fs-{bus(spec)},chardev={name},tag={escape(tag)}"]
    ro = ",readonly=on" if share.read_only else ""
    fsdev = f"local,id={name},path={escape(share.source)},security_model=none,multidevs=remap{ro}"
    return ["-fsdev", fsdev, "-device", f"virtio-9p-{bus(spec)},fsdev={name},mount_tag={escape(tag)}"]


def _extras(spec: MachineSpec, launch: Launch) -> list[str]:
    words: list[str] = []
    for number in range(spec.spare_ports):
        words += ["-device", f"pcie-root-port,id=spare{number},chassis={number + 1},slot={number + 1}"]
    if spec.balloon:
        words += ["-device", f"virtio-balloon-{bus(spec)},id=balloon,free-page-reporting=on"]
    if spec.vmgenid:
        words += ["-device", f"vmgenid,guid={spec.vmgenid}"]
    if spec.display:
        words += ["-device", "virtio-gpu-pci" if spec.arch == "aarch64" else "VGA"]
    if spec.tpm:
        words += ["-chardev", f"socket,id=tpm,path={escape(launch.run)}/tpm"]
        words += ["-tpmdev", "emulator,id=tpm0,chardev=tpm", "-device", "tpm-crb,tpmdev=tpm0"]
    return words


def joined(words: list[str]) -> list[str]:
    """One option and its value a line."""
    lines: list[str] = []
    for word in words:
        if lines and not word.startswith("-") and lines[-1].startswith("-") and " " not in lines[-1]:
            lines[-1] += f" {shlex.quote(word)}"
        else:
            lines.append(shlex.quote(word))
    return lines
