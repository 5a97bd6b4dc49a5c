"""RunRequest and image -> MachineSpec, and the disk, kernel and seed that the machine starts from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from host import paths
from host.errors import NotFound, Unsupported, Usage
from instances import names, seeding, volumes
from instances.command import argv_of, environment
from vmm.spec import (
    FIRMWARE_BOOTS,
    KERNEL_BOOTS,
    Command,
    Disk,
    Forward,
    MachineSpec,
    Nic,
    Share,
    check,
    replace,
)

if TYPE_CHECKING:
    from images.at_hand import GuestKernel
    from images.store import Image
    from instances.requests import RunRequest, Volume
    from instances.wiring import Identity

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# A command that is one of these takes the machine over as its pid 1: system mode.
INITS = (
    "/sbin/init",
    "/lib/systemd/systemd",
    "/usr/lib/systemd/systemd",
    "/usr/sbin/init",
    "/bin/init",
    "/init",
)

# OCI's word for an architecture (GOARCH) -> QEMU's and uname's
_MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}


class Files(NamedTuple):
    """The files of a start: paths only, so that a plan can be drawn before they are there."""

    disk: str
    kernel: str = ""
    initrd: str = ""
    seed: str = ""


def prepare(request: RunRequest, image: Image, who: Identity) -> MachineSpec:
    """The spec, with its disk made as a thin layer over the image's, and its kernel and initrd at hand."""
    request = _as_imported(request, image)
    draft = machine_spec(request, image, who, _planned(request, image, who))
    seed = seeding.write(request, image, who)
    files = Files(_disk(request, image, who), *_kernel_files(draft, request), seed)
    return check(machine_spec(request, image, who, files))


def outline(request: RunRequest, image: Image, who: Identity) -> MachineSpec:
    """The spec that `prepare` would give, with the places where its files would be."""
    request = _as_imported(request, image)
    return check(machine_spec(request, image, who, _planned(request, image, who)))


def machine_spec(request: RunRequest, image: Image, who: Identity, files: Files) -> MachineSpec:
    """The MachineSpec that the request and the image's own configuration ask for together."""
    argv = _own_disk_argv(request, image) if image.disk else argv_of(request, image.config)
    init = argv[0] if argv[0] in INITS else None
    if init is None:
        seeding.refuse_without_init(request)
    if request.autostart:
        _refuse_autostart(request, init is not None, who)
    arch = _architecture(request, image)
    boot = _firmware(request, image) if image.disk else request.boot or _default_boot(request, init, arch)
    hostname = request.hostname or who.name.replace("_", "-").replace(".", "-")
    driver, uri = _driver(request)
    bare = MachineSpec(
        name=who.name,
        uuid=names.uuid_of(who.id),
        driver=driver,
        uri=uri,
        accel=request.accel or os.environ.get("VMM_ACCEL") or "auto",
        arch=arch,
        boot=boot,
        machine=request.machine or "",
        memory_bytes=request.memory_bytes or (512 << 20 if init else 256 << 20),
        cpus=_whole_cpus(request.cpus),
        cloneable=request.cloneable,
        append=request.append or "",
        init=init,
        hostname=hostname,
        command=_command(request, image, argv, hostname),
        autostart=request.autostart,
        ephemeral=request.rm,
        template="" if image.disk or arch != "x86_64" else _template(request),
    )
    return _equipped(_roomy(bare), request, image, files)


def _roomy(spec: MachineSpec) -> MachineSpec:
    """With the places that hotplug needs from birth; a microvm and a command have no use for them."""
    if spec.boot == "microvm" or spec.init is None or spec.arch != "x86_64":
        return spec
    return replace(
        spec,
        max_memory_bytes=4 * spec.memory_bytes,
        max_cpus=max(4, 2 * spec.cpus),
        balloon=not spec.cloneable,
    )


def _equipped(spec: MachineSpec, request: RunRequest, image: Image, files: Files) -> MachineSpec:
    """With its kernel and its devices."""
    # A disk of ours has no boot loader: the firmware, too, gets its kernel from QEMU.
    loaded = spec.boot in KERNEL_BOOTS or not image.disk
    system_mode = spec.init is not None
    vmgenid = spec.arch == "x86_64" and _knows_vmgenid(request, spec.boot, loaded)
    return replace(
        spec,
        kernel=files.kernel if loaded else "",
        initrd=files.initrd if loaded else "",
        root="/dev/vda" if loaded and not image.kernel else "",
        disks=_disks(request, image, files),
        nics=_nics(request, system_mode),
        seed=files.seed,
        ssh_user=seeding.login(request, image),
        agent=system_mode,
        shares=_shares(request, loaded and not image.kernel),
        spare_ports=0 if spec.boot == "microvm" else 4,
        vmgenid="auto" if vmgenid else "",
        tpm=request.tpm,
    )


def _refuse_autostart(request: RunRequest, system_mode: bool, who: Identity) -> None:
    """Raise Unsupported for a machine that cannot start without us."""
    if system_mode and request.network in (None, "user", "none"):
        return
    why = "its network is made by vmm's next command" if system_mode else "nobody would tell it its command"
    hint = "--autostart is for /sbin/init on QEMU's own network (--network user)"
    raise Unsupported("cannot start with the host", who.name, why, hint)


def _knows_vmgenid(request: RunRequest, boot: str, loaded: bool) -> bool:
    """Whether the guest can have a driver for it: Debian's cloud kernel has none, and qboot no such table."""
    if not loaded:
        return True
    return boot in ("direct", "uefi", "bios") and _kernel_word(request) == "generic"


def _architecture(request: RunRequest, image: Image) -> str:
    """The instruction set: the image's own, which --arch may only confirm."""
    of_image = _MACHINES.get(image.config.architecture, image.config.architecture)
    if request.arch not in (None, of_image):
        hint = "vmm image pull --arch takes another one from a registry; tiny is made for each"
        why = f"the image is for {of_image}"
        raise Unsupported(f"cannot run on {request.arch}", request.image, why, hint)
    return of_image


def _driver(request: RunRequest) -> tuple[str, str]:
    """Who runs QEMU; which libvirt is kept in the record, so that later commands need not be told again."""
    driver = request.driver or ("libvirt" if request.connect else os.environ.get("VMM_DRIVER")) or "qemu"
    if driver == "qemu" and request.connect:
        why = "the qemu driver has no daemon"
        raise Usage("cannot use", f"--connect {request.connect}", why, "--driver libvirt")
    if driver == "qemu" and request.autostart:
        why = "nobody would start a machine of the qemu driver"
        raise Unsupported("--autostart is not for every machine", why=why, hint="--driver libvirt")
    uri = request.connect or os.environ.get("LIBVIRT_DEFAULT_URI", "") if driver == "libvirt" else ""
    return driver, uri


def _as_imported(request: RunRequest, image: Image) -> RunRequest:
    """With what an imported disk came with and asks for, wherever the words say nothing of it."""
    if not image.disk:
        return request
    memory_bytes, cpus = (_number_in(image, f"vmm.{what}") for what in ("memory_bytes", "cpus"))
    asked = request._replace(
        memory_bytes=request.memory_bytes or memory_bytes, cpus=request.cpus or (cpus and float(cpus))
    )
    return _with_own_kernel(asked, image)


def _number_in(image: Image, label: str) -> int | None:
    text = image.config.labels.get(label, "")
    return int(text) if text.isdecimal() and len(text) < 16 else None


def _with_own_kernel(request: RunRequest, image: Image) -> RunRequest:
    """A disk that came with a kernel starts by it, unless the words say otherwise."""
    if not image.kernel or request.boot or request.kernel:
        return request
    from instances import provision

    blobs = provision.store().blobs
    words = request.append or image.config.labels.get("vmm.append", "root=/dev/vda rw")
    initrd = str(blobs.path(image.ramdisk)) if image.ramdisk else None
    kernel = str(blobs.path(image.kernel))
    return request._replace(boot="direct", kernel=kernel, initrd=initrd, append=words)


def _firmware(request: RunRequest, image: Image) -> str:
    """How an imported disk boots: by BIOS unless it says otherwise; an ISO by what its boot record has."""
    known = [word for word in image.config.labels.get("vmm.boots", "").split() if word in FIRMWARE_BOOTS]
    boot = request.boot or (known[0] if known else "bios")
    if image.cdrom and known and boot not in known:
        why = f"its boot record is for {' and '.join(known)} only"
        raise Unsupported(f"cannot boot by {boot}", image.name, why, f"--boot {known[0]}, or leave it out")
    return boot


def _disks(request: RunRequest, image: Image, files: Files) -> tuple[Disk, ...]:
    """The machine's own disk; before an ISO an empty one (--disk), which boots once something is on it."""
    own = (Disk(path=files.disk, format=request.disk_format or "qcow2"),) if files.disk else ()
    if not image.cdrom:
        return own
    from images import disks
    from instances import provision

    disc = str(disks.base(provision.store(), image))
    return (*own, Disk(path=disc, format="raw", read_only=True, cdrom=True))


def _own_disk_argv(request: RunRequest, image: Image) -> tuple[str, ...]:
    """A disk that was imported starts its own kernel and init by its own boot loader."""
    if request.command or request.entrypoint:
        hint = "start it without a command (-d), then vmm exec or ssh"
        raise Unsupported("cannot run a command in", image.name, "it is a disk, which boots itself", hint)
    return ("/sbin/init",)


def _template(request: RunRequest) -> str:
    """Whether it may start as a clone: not where the words ask for a boot, or for one like no other."""
    asked = (request.boot, request.kernel, request.initrd, request.append, request.machine, request.arch)
    return "" if any(asked) else "auto"


def _default_boot(request: RunRequest, init: str | None, arch: str) -> str:
    """The quickest rung that can do what is asked: a microvm has neither hotplug nor a TPM."""
    if arch != "x86_64" or request.tpm:
        return "direct"
    return "microvm" if init is None and not request.machine else "direct"


def _command(request: RunRequest, image: Image, argv: tuple[str, ...], hostname: str) -> Command:
    config = image.config
    user = request.user if request.user is not None else config.user
    env = environment(request, config, PATH, hostname)
    return Command(argv=argv, env=env, cwd=request.workdir or config.workdir or "/", user=user)


def _whole_cpus(cpus: float | None) -> int:
    if cpus is None:
        return 1
    if cpus != int(cpus):
        hint = "give a whole number, or use --ct"
        raise Unsupported(
            f"--cpus {cpus:g} is not for a machine", why="a processor is there or not", hint=hint
        )
    return int(cpus)


def _nics(request: RunRequest, system_mode: bool) -> tuple[Nic, ...]:
    words = request.network or "user"
    forwards = tuple(
        Forward(host=one.host_port, guest=one.port, host_ip=one.host_ip, protocol=one.protocol)
        for one in request.ports
    )
    if words == "none":
        if forwards:
            raise Usage(
                "cannot publish a port", why="--network none has no address", hint="leave --network out"
            )
        return ()
    if words == "user":
        if system_mode and not any(one.guest == 22 and one.protocol == "tcp" for one in forwards):
            # QEMU takes a free port of the host: sshd's first words are how `ls` and `wait` know it is ready.
            forwards += (Forward(host=_kept_port() if request.autostart else 0, guest=22),)
        return (Nic(kind="user", forwards=forwards),)
    if words.startswith("libvirt:"):
        if forwards:
            hint = "vmm network create makes a network that publishes ports"
            raise Usage("cannot publish a port", why="libvirt's networks publish none", hint=hint)
        return (Nic(kind="libvirt", network=words.partition(":")[2], ip=request.ip or ""),)
    if words == "host" or words.startswith("container:"):
        hint = "--network NAME joins a bridge that containers share; user is QEMU's own NAT"
        raise Unsupported(f"--network {words} is not for a machine", hint=hint)
    return (Nic(kind="network", network=names.check(words), ip=request.ip or "", forwards=forwards),)


def _kept_port() -> int:
    """A port that is free now and stays the machine's: nobody hears QEMU's choice when libvirt starts it."""
    from host.linux.net.ports import Port, probed

    return probed(Port("127.0.0.1", 0, 22, "tcp")).host


def _shares(request: RunRequest, loaded: bool) -> tuple[Share, ...]:
    """Folders of the host, and named volumes: those are folders too, the same ones for both kinds."""
    if request.volumes and not loaded:
        hint = "an image whose kernel vmm loads, or vmm update NAME --add-disk"
        raise Unsupported(
            "-v is not for a disk that boots itself", request.image, "nobody mounts it there", hint
        )
    # As root virtiofsd keeps the files' owners; 9p needs no rights, and a kernel that has it.
    kind = "9p" if os.geteuid() else "virtiofs"
    return tuple(
        Share(
            source=_folder(one), target=one.target, tag=f"share{number}", kind=kind, read_only=one.read_only
        )
        for number, one in enumerate(request.volumes)
    )


def _folder(volume: Volume) -> str:
    if not volume.source:
        hint = f"-v NAME:{volume.target} names one; what a machine writes stays on its own disk anyway"
        raise Unsupported("a volume without a name is not for a machine", volume.target, hint=hint)
    if not volume.source.startswith("/"):
        return str(volumes.data_dir(volume.source))
    if not os.path.isdir(volume.source):
        hint = "make it first; a machine shares folders, not single files"
        raise NotFound("no folder to share", volume.source, hint=hint)
    return volume.source


def _planned(request: RunRequest, image: Image, who: Identity) -> Files:
    cache = paths.home() / "cache"
    kernel = request.kernel or _kernel_word(request)
    return Files(
        disk="" if image.cdrom and not request.disk_bytes else str(_disk_path(request, who)),
        kernel=kernel if "/" in kernel else str(cache / f"KERNEL-{kernel}"),
        initrd=request.initrd or str(cache / "INITRD"),
        seed=str(who.folder / "seed.iso") if seeding.wanted(request, image) else "",
    )


def _kernel_word(request: RunRequest) -> str:
    """Debian's cloud kernel is the quickest; only the generic one has the 9p that a user's folders need."""
    return request.kernel or ("generic" if request.volumes and os.geteuid() else "cloud")


def _disk_path(request: RunRequest, who: Identity) -> Path:
    return who.folder / f"disk.{request.disk_format or 'qcow2'}"


def _disk(request: RunRequest, image: Image, who: Identity) -> str:
    """Make the machine's own disk; its path, empty for an ISO without --disk."""
    from images import at_hand
    from instances import provision

    path, form = _disk_path(request, who), request.disk_format or "qcow2"
    plain = form == "qcow2" and not (request.disk_bytes or image.disk)
    if plain and at_hand.copy_overlay(at_hand.base_path(provision.store(), image), path):
        return str(path)
    from images import disks

    if image.cdrom:
        return str(disks.blank(path, form, request.disk_bytes)) if request.disk_bytes else ""
    base = disks.base(provision.store(), image)
    if form == "qcow2":
        return str(disks.overlay(base, path, request.disk_bytes))
    if request.disk_bytes:
        raise Unsupported("--disk is for qcow2 disks", form, hint="leave --disk-format out")
    return str(disks.convert(base, path, form, source_format="qcow2"))


def _kernel_files(spec: MachineSpec, request: RunRequest) -> tuple[str, str]:
    """The kernel in the form that the rung wants (microvm, pvh: the ELF with a PVH note), and its initrd."""
    from images import at_hand
    from vmm import rungs

    if not spec.kernel:
        return "", ""
    word = _kernel_word(request)
    kernel = at_hand.kernel(paths.home(), word, spec.arch) or _fetched_kernel(word, spec.arch)
    image = kernel.bzimage if rungs.kernel_file(spec.boot) == "bzimage" else kernel.vmlinux
    if request.initrd:
        return str(image), os.path.abspath(request.initrd)
    helper, modules = paths.guest_helper(spec.arch), rungs.modules(spec)
    made = at_hand.initrd_path(paths.home(), kernel, helper, modules)
    if not made.exists():
        from images import initrds

        initrds.initrd(paths.home(), kernel, helper, modules)
    return str(image), str(made)


def _fetched_kernel(word: str, arch: str) -> GuestKernel:
    from images import kernels
    from instances import provision

    if "/" in word:
        return kernels.guest_kernel(paths.home(), Path(word), machine=arch)
    provision.said(f"Debian's {word} kernel for {arch} is not here yet: fetching it")
    return kernels.guest_kernel(paths.home(), word, machine=arch)
