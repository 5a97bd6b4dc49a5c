"""A machine as libvirt XML: the same spec, pure, golden files in tests/vmm/golden.

`qemu:commandline` is used only where libvirt 9.0 has no word: the query monitor, the locked pidfile, the size
of TCG's buffer, ports kept in files, microvm's clocks, NVMe disks, a memory file at a path of ours.
"""

from __future__ import annotations

import json
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from vmm import ports
from vmm.kernel_line import kernel_line
from vmm.launch import CHANNELS, Launch
from vmm.qemu_argv import (
    QBOOT,
    bus,
    cpu_features,
    cpu_model,
    escape,
    hostfwd,
    incoming,
    machine_type,
    memory_object,
    modern_mmio,
    tb_size_mib,
)
from vmm.spec import Disk, MachineSpec, Nic, Share

QEMU_NAMESPACE = "http://libvirt.org/schemas/domain/qemu/1.0"
_MIB = 1 << 20


def xml(spec: MachineSpec, launch: Launch, name: str = "", owner: str = "") -> str:
    """The domain XML of a machine; `name` is its name for libvirt, `owner` (+uid:+gid) its QEMU's user.

    Without an owner, as in the session's libvirt, no label is set.
    """
    kind = "kvm" if launch.accel == "kvm" else "qemu"
    domain = Element("domain", {"type": kind, "xmlns:qemu": QEMU_NAMESPACE})
    _text(domain, "name", name or spec.name)
    if spec.uuid:
        _text(domain, "uuid", spec.uuid)
    _memory(domain, spec, launch)
    _text(
        domain,
        "vcpu",
        str(spec.max_cpus or spec.cpus),
        **({"current": str(spec.cpus)} if spec.max_cpus else {}),
    )
    _os(domain, spec, launch)
    _features(domain, spec)
    _cpu(domain, spec, launch)
    _text(domain, "on_reboot", "destroy" if spec.kernel else "restart")
    _text(domain, "on_crash", "destroy")
    _devices(domain, spec, launch)
    _label(domain, owner)
    _command_line(domain, spec, launch)
    indent(domain)
    return tostring(domain, encoding="unicode") + "\n"


def _text(parent: Element, tag: str, text: str, **attributes: str) -> Element:
    child = SubElement(parent, tag, attributes)
    child.text = text
    return child


def _memory(domain: Element, spec: MachineSpec, launch: Launch) -> None:
    size = str(spec.memory_bytes // 1024)
    if spec.max_memory_bytes:
        _text(domain, "maxMemory", str(spec.max_memory_bytes // 1024), slots="4", unit="KiB")
    _text(domain, "memory", size, unit="KiB")
    _text(domain, "currentMemory", size, unit="KiB")
    if any(share.kind == "virtiofs" for share in spec.shares):
        backing = SubElement(domain, "memoryBacking")
        SubElement(backing, "source", {"type": "memfd"})
        SubElement(backing, "access", {"mode": "shared"})


def _os(domain: Element, spec: MachineSpec, launch: Launch) -> None:
    os_ = SubElement(domain, "os")
    _text(os_, "type", "hvm", arch=spec.arch, machine=machine_type(spec))
    if spec.boot == "uefi":
        _text(os_, "loader", spec.firmware, readonly="yes", type="pflash")
        _text(os_, "nvram", spec.firmware_vars)
    elif spec.firmware:
        _text(os_, "loader", spec.firmware, type="rom")
    elif spec.boot == "pvh" and not spec.vmgenid:
        _text(os_, "loader", QBOOT, type="rom")
    if not spec.kernel:
        return
    _text(os_, "kernel", spec.kernel)
    if spec.initrd:
        _text(os_, "initrd", spec.initrd)
    _text(os_, "cmdline", kernel_line(spec, launch))


def _features(domain: Element, spec: MachineSpec) -> None:
    features = SubElement(domain, "features")
    if spec.arch == "x86_64":
        SubElement(features, "acpi")
    if spec.vmgenid:
        _text(domain, "genid", "" if spec.vmgenid == "auto" else spec.vmgenid)


def _cpu(domain: Element, spec: MachineSpec, launch: Launch) -> None:
    model = cpu_model(spec, launch)
    if model == "host":
        SubElement(domain, "cpu", {"mode": "host-passthrough"})
    elif model == "max":
        SubElement(domain, "cpu", {"mode": "maximum"})
    else:
        cpu = SubElement(domain, "cpu", {"mode": "custom", "match": "exact", "check": "none"})
        _text(cpu, "model", model, fallback="forbid")
        for name in cpu_features(spec, launch):
            SubElement(cpu, "feature", {"policy": "require", "name": name})
        # Memory hotplug needs a NUMA node to put the memory in.
        if spec.max_memory_bytes:
            numa = SubElement(cpu, "numa")
            cpus, size = f"0-{(spec.max_cpus or spec.cpus) - 1}", str(spec.memory_bytes // 1024)
            SubElement(numa, "cell", {"id": "0", "cpus": cpus, "memory": size, "unit": "KiB"})


def _devices(domain: Element, spec: MachineSpec, launch: Launch) -> None:
    devices = SubElement(domain, "devices")
    _text(devices, "emulator", f"/usr/bin/{launch.qemu}" if "/" not in launch.qemu else launch.qemu)
    for number, disk in enumerate(_disks(spec)):
        if disk.bus != "nvme":
            _disk(devices, spec, disk, number)
    for number, nic in enumerate(spec.nics):
        if not _by_command_line(spec, nic):
            _nic(devices, spec, nic, launch, number)
    _serial(devices, launch)
    _controllers(devices, spec)
    _channels(devices, spec, launch)
    for number, share in enumerate(spec.shares):
        _share(devices, share, number)
    _extras(devices, spec)


def _mmio(device: Element, spec: MachineSpec) -> None:
    # microvm has no PCI bus, and libvirt would look for one.
    if spec.boot == "microvm":
        SubElement(device, "address", {"type": "virtio-mmio"})


def _disks(spec: MachineSpec) -> list[Disk]:
    seed = [Disk(path=spec.seed, format="raw", serial="seed", read_only=True)] if spec.seed else []
    return [*spec.disks, *seed]


def _disk(devices: Element, spec: MachineSpec, disk: Disk, number: int) -> None:
    sata = disk.bus == "sata" or (disk.cdrom and spec.boot != "microvm" and spec.arch == "x86_64")
    kind = "cdrom" if disk.cdrom and sata else "disk"
    element = SubElement(devices, "disk", {"type": "file", "device": kind})
    driver = {"name": "qemu", "type": disk.format, "discard": "unmap"}
    SubElement(element, "driver", driver)
    SubElement(element, "source", {"file": disk.path})
    letter = chr(ord("a") + number)
    SubElement(
        element,
        "target",
        {"dev": f"sd{letter}" if sata else f"vd{letter}", "bus": "sata" if sata else "virtio"},
    )
    if disk.read_only or disk.cdrom:
        SubElement(element, "readonly")
    if disk.serial:
        _text(element, "serial", disk.serial)
    if not spec.kernel:
        SubElement(element, "boot", {"order": str(number + 1)})
    if not sata:
        _mmio(element, spec)


def _nic(devices: Element, spec: MachineSpec, nic: Nic, launch: Launch, number: int) -> None:
    bridges = {name: (bridge, link) for name, bridge, link in launch.bridges}
    if nic.kind == "network":
        element = SubElement(devices, "interface", {"type": "bridge"})
        bridge, link = bridges.get(f"net{number}", (nic.network, ""))
        SubElement(element, "source", {"bridge": bridge})
        if link:
            SubElement(element, "target", {"dev": link})
    elif nic.kind == "libvirt":
        element = SubElement(devices, "interface", {"type": "network"})
        SubElement(element, "source", {"network": nic.network})
    else:
        element = SubElement(devices, "interface", {"type": "user"})
    if nic.mac:
        SubElement(element, "mac", {"address": nic.mac})
    SubElement(element, "model", {"type": "virtio"})
    # No PXE: EFI would wait minutes for a network boot.
    if bus(spec) == "pci":
        SubElement(element, "rom", {"enabled": "no"})
    _mmio(element, spec)


def _by_command_line(spec: MachineSpec, nic: Nic) -> bool:
    """Whether the card is QEMU's words alone: what libvirt starts by itself nobody gives its forwards."""
    return spec.autostart and nic.kind == "user" and bool(nic.forwards)


def _nic_words(spec: MachineSpec) -> list[str]:
    words: list[str] = []
    for number, nic in enumerate(spec.nics):
        if _by_command_line(spec, nic):
            name = f"hostnet{number}"
            given = [f",hostfwd={hostfwd(f.protocol, f.host_ip, f.host, f.guest)}" for f in nic.forwards]
            device = {"driver": f"virtio-net-{bus(spec)}", "id": f"net{number}", "netdev": name}
            # libvirt does not know of it: a slot of the root bus that it leaves free
            place = {"bus": "pcie.0", "addr": hex(0x1D - number), "romfile": ""} if bus(spec) == "pci" else {}
            mac = {"mac": nic.mac} if nic.mac else {}
            words += ["-netdev", f"user,id={name}{''.join(given)}", "-device"]
            words.append(json.dumps(device | place | mac))
    return words


def forwards(spec: MachineSpec) -> list[str]:
    """The HMP commands that add forwards: libvirt 9.0 accepts portForward and ignores it."""
    return [
        f"hostfwd_add hostnet{number} {hostfwd(one.protocol, one.host_ip, one.host, one.guest)}"
        for number, nic in enumerate(spec.nics)
        for one in nic.forwards
        if nic.kind == "user" and not _by_command_line(spec, nic)
    ]


def _serial(devices: Element, launch: Launch) -> None:
    serial = SubElement(devices, "serial", {"type": "unix"})
    SubElement(serial, "source", {"mode": "bind", "path": f"{launch.run}/serial"})
    SubElement(serial, "log", {"file": f"{launch.folder}/serial.log", "append": "on"})
    SubElement(serial, "target", {"port": "0"})


def _controllers(devices: Element, spec: MachineSpec) -> None:
    controller = SubElement(devices, "controller", {"type": "virtio-serial", "index": "0"})
    if spec.boot == "microvm":
        controller.set("ports", str(ports.MOST))
    _mmio(controller, spec)
    SubElement(devices, "controller", {"type": "usb", "model": "none"})
    if spec.spare_ports:
        SubElement(devices, "controller", {"type": "pci", "index": "0", "model": "pcie-root"})
    for _ in range(spec.spare_ports and spec.spare_ports + _pci_devices(spec)):
        SubElement(devices, "controller", {"type": "pci", "model": "pcie-root-port"})


def _pci_devices(spec: MachineSpec) -> int:
    """How many root ports libvirt fills by itself: one for each virtio device."""
    virtio = [disk for disk in _disks(spec) if disk.bus == "virtio" and not disk.cdrom]
    return len(virtio) + len(spec.nics) + len(spec.shares) + spec.balloon + 2  # and virtio-serial, virtio-rng


def _channels(devices: Element, spec: MachineSpec, launch: Launch) -> None:
    for name in CHANNELS:
        _socket_channel(devices, f"{launch.run}/{name}", f"vmm.{name}")
    if spec.agent:
        _socket_channel(devices, f"{launch.run}/agent", "org.qemu.guest_agent.0")


def _socket_channel(devices: Element, path: str, name: str) -> None:
    channel = SubElement(devices, "channel", {"type": "unix"})
    SubElement(channel, "source", {"mode": "bind", "path": path})
    SubElement(channel, "target", {"type": "virtio", "name": name})


def _share(devices: Element, share: Share, number: int) -> None:
    attributes = {"type": "mount"} | ({"accessmode": "squash"} if share.kind == "9p" else {})
    element = SubElement(devices, "filesystem", attributes)
    if share.kind == "virtiofs":
        SubElement(element, "driver", {"type": "virtiofs"})
    SubElement(element, "source", {"dir": share.source})
    SubElement(element, "target", {"dir": share.tag or f"share{number}"})
    if share.read_only:
        SubElement(element, "readonly")


def _extras(devices: Element, spec: MachineSpec) -> None:
    rng = SubElement(devices, "rng", {"model": "virtio"})
    _text(rng, "backend", "/dev/urandom", model="random")
    _mmio(rng, spec)
    if spec.balloon:
        SubElement(devices, "memballoon", {"model": "virtio", "freePageReporting": "on"})
    else:
        SubElement(devices, "memballoon", {"model": "none"})
    if spec.display:
        video = SubElement(devices, "video")
        SubElement(video, "model", {"type": "virtio" if spec.arch == "aarch64" else "vga"})
    if spec.tpm:
        tpm = SubElement(devices, "tpm", {"model": "tpm-crb"})
        SubElement(tpm, "backend", {"type": "emulator", "version": "2.0"})


def _label(domain: Element, owner: str) -> None:
    if owner:
        # Static, and never relabelled: libvirt must not chown what machines share.
        label = SubElement(domain, "seclabel", {"type": "static", "model": "dac", "relabel": "no"})
        _text(label, "label", owner)


def _command_line(domain: Element, spec: MachineSpec, launch: Launch) -> None:
    words = ["-qmp", f"unix:{escape(launch.run)}/query,server=on,wait=off"]
    if launch.accel == "tcg":
        words += ["-accel", f"tcg,tb-size={tb_size_mib(spec)}"]
    words += ["-pidfile", f"{launch.run}/pid"]
    words += [*_microvm_words(spec), *modern_mmio(spec)]
    words += _log_words(spec, launch)
    words += _nvme_words(spec)
    words += _nic_words(spec)
    if spec.cloneable or launch.memory_file:
        words += ["-object", memory_object(spec, launch), "-machine", "memory-backend=ram"]
    words += incoming(spec, launch)
    command_line = SubElement(domain, "qemu:commandline")
    for word in words:
        SubElement(command_line, "qemu:arg", {"value": word})


def _microvm_words(spec: MachineSpec) -> list[str]:
    return ["-machine", "rtc=on,pit=off,pic=off"] if spec.boot == "microvm" else []


def _log_words(spec: MachineSpec, launch: Launch) -> list[str]:
    """The ports whose output QEMU keeps in files itself: virtlogd would rotate them, and write them later."""
    words: list[str] = []
    for name, append in (("log", "on"), ("status", "off")) if spec.command_mode else ():
        path = escape(f"{launch.folder}/{name}")
        words += ["-chardev", f"file,id={name},path={path},append={append}"]
        # In JSON as libvirt writes its own: QEMU makes the devices of the older form first, before their bus.
        device = {
            "driver": "virtserialport",
            "bus": "virtio-serial0.0",
            "chardev": name,
            "name": f"vmm.{name}",
        }
        words += ["-device", json.dumps(device)]
    return words


def _nvme_words(spec: MachineSpec) -> list[str]:
    words: list[str] = []
    for number, disk in enumerate(_disks(spec)):
        if disk.bus == "nvme":
            node = f"disk{number}"
            file = f"file.driver=file,file.filename={escape(disk.path)}"
            words += ["-blockdev", f"driver={disk.format},node-name={node},discard=unmap,{file}"]
            words += ["-device", f"nvme,id=dev-{node},drive={node},serial={escape(disk.serial or node)}"]
    return words
