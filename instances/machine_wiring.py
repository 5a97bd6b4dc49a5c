"""RunRequest and image -> MachineSpec, and the disk, kernel and seed that the machine starts from."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from host import paths
from host.errors import NotFound, Unsupported, Usage
from instances import names
from instances.command import argv_of, environment
from vmm.spec import KERNEL_BOOTS, Command, Disk, Forward, MachineSpec, Nic, Share, check

if TYPE_CHECKING:
    from images.store import Image
    from instances.requests import RunRequest
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


class Files(NamedTuple):
    """The files of a start: paths only, so that a plan can be drawn before they are there."""

    disk: str
    kernel: str = ""
    initrd: str = ""
    seed: str = ""


def prepare(request: RunRequest, image: Image, who: Identity) -> MachineSpec:
    """The spec, with its disk made as a thin layer over the image's, and its kernel and initrd at hand."""
    request = _with_own_kernel(request, image)
    draft = machine_spec(request, image, who, _planned(request, who))
    files = Files(str(_disk(request, image, who)), *_kernel_files(draft, request), _seed(request, who))
    return check(machine_spec(request, image, who, files))


def outline(request: RunRequest, image: Image, who: Identity) -> MachineSpec:
    """The spec that `prepare` would give, with the places where its files would be."""
    request = _with_own_kernel(request, image)
    return check(machine_spec(request, image, who, _planned(request, who)))


def machine_spec(request: RunRequest, image: Image, who: Identity, files: Files) -> MachineSpec:
    """The MachineSpec that the request and the image's own configuration ask for together."""
    argv = _own_disk_argv(request, image) if image.disk else argv_of(request, image.config)
    init = argv[0] if argv[0] in INITS else None
    boot = request.boot or ("bios" if image.disk else _default_boot(request, init))
    # A disk of ours has no boot loader: the firmware, too, gets its kernel from QEMU.
    loaded = boot in KERNEL_BOOTS or not image.disk
    hostname = request.hostname or who.name.replace("_", "-").replace(".", "-")
    memory_bytes, cpus = request.memory_bytes or (512 << 20 if init else 256 << 20), _whole_cpus(request.cpus)
    # Hotplug needs places that a machine is born with; a microvm and a command have no use for them.
    roomy = boot != "microvm" and init is not None
    return MachineSpec(
        name=who.name,
        uuid=f"{who.id[:8]}-{who.id[8:12]}-4{who.id[13:16]}-8{who.id[17:20]}-{who.id[20:32]}",
        driver=request.driver or os.environ.get("VMM_DRIVER") or "qemu",
        accel=request.accel or os.environ.get("VMM_ACCEL") or "auto",
        arch=request.arch or "x86_64",
        boot=boot,
        machine=request.machine or "",
        memory_bytes=memory_bytes,
        max_memory_bytes=4 * memory_bytes if roomy else 0,
        cpus=cpus,
        max_cpus=max(4, 2 * cpus) if roomy else 0,
        balloon=roomy,
        kernel=files.kernel if loaded else "",
        initrd=files.initrd if loaded else "",
        append=request.append or "",
        root="/dev/vda" if loaded and not image.kernel else "",
        init=init,
        hostname=hostname,
        command=_command(request, image, argv, hostname),
        disks=(Disk(path=files.disk, format=request.disk_format or "qcow2"), *_volumes(request)),
        nics=_nics(request, init is not None),
        seed=files.seed,
        shares=_shares(request),
        spare_ports=0 if boot == "microvm" else 4,
        tpm=request.tpm,
        autostart=request.autostart,
        ephemeral=request.rm,
        template="" if image.disk else _template(request),
    )


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


def _default_boot(request: RunRequest, init: str | None) -> str:
    """The quickest rung that can do what is asked: a microvm has neither hotplug nor a TPM."""
    if request.arch not in (None, "x86_64") or request.tpm:
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
            forwards += (Forward(host=0, guest=22),)
        return (Nic(kind="user", forwards=forwards),)
    if words == "host" or words.startswith("container:"):
        hint = "--network NAME joins a bridge that containers share; user is QEMU's own NAT"
        raise Unsupported(f"--network {words} is not for a machine", hint=hint)
    return (Nic(kind="network", network=names.check(words), ip=request.ip or "", forwards=forwards),)


def _shares(request: RunRequest) -> tuple[Share, ...]:
    folders = [volume for volume in request.volumes if volume.source.startswith("/")]
    for volume in folders:
        if not os.path.isdir(volume.source):
            hint = "make it first; a machine shares folders, not single files"
            raise NotFound("no folder to share", volume.source, hint=hint)
    return tuple(
        Share(source=volume.source, target=volume.target, tag=f"share{number}", read_only=volume.read_only)
        for number, volume in enumerate(folders)
    )


def _volumes(request: RunRequest) -> tuple[Disk, ...]:
    named = [volume for volume in request.volumes if not volume.source.startswith("/")]
    if named:
        hint = "-v /host/folder:/inside shares a folder with a machine"
        raise Unsupported("a named volume is not for a machine yet", repr(named[0].source), hint=hint)
    return ()


def _planned(request: RunRequest, who: Identity) -> Files:
    cache = paths.home() / "cache"
    kernel = request.kernel or _kernel_word(request)
    return Files(
        disk=str(who.folder / f"disk.{request.disk_format or 'qcow2'}"),
        kernel=kernel if "/" in kernel else str(cache / f"KERNEL-{kernel}"),
        initrd=request.initrd or str(cache / "INITRD"),
        seed=str(who.folder / "seed.iso") if request.cloud_init or request.ssh_keys else "",
    )


def _kernel_word(request: RunRequest) -> str:
    """Debian's cloud kernel is the quickest; only the generic one has the 9p of shared folders."""
    return request.kernel or (
        "generic" if any(v.source.startswith("/") for v in request.volumes) else "cloud"
    )


def _disk(request: RunRequest, image: Image, who: Identity) -> Path:
    from images import disks
    from instances import provision

    path = who.folder / f"disk.{request.disk_format or 'qcow2'}"
    base = disks.base(provision.store(), image)
    if (request.disk_format or "qcow2") == "qcow2":
        disks.overlay(base, path, request.disk_bytes)
    else:
        if request.disk_bytes:
            raise Unsupported(
                "--disk is for qcow2 disks", request.disk_format or "", hint="leave --disk-format out"
            )
        disks.convert(base, path, request.disk_format or "", source_format="qcow2")
    return path


def _kernel_files(spec: MachineSpec, request: RunRequest) -> tuple[str, str]:
    """The kernel in the form that the rung wants (microvm, pvh: the ELF with a PVH note), and its initrd."""
    from images import initrds, kernels
    from instances import provision
    from vmm import rungs

    if not spec.kernel:
        return "", ""
    word = _kernel_word(request)
    if "/" not in word and not (paths.home() / "cache" / "kernels" / word).exists():
        provision.said(f"Debian's {word} kernel is not here yet: fetching it")
    kernel = kernels.guest_kernel(paths.home(), Path(word) if "/" in word else word)
    image = kernel.bzimage if rungs.kernel_file(spec.boot) == "bzimage" else kernel.vmlinux
    if request.initrd:
        return str(image), os.path.abspath(request.initrd)
    made = initrds.initrd(paths.home(), kernel, paths.guest_helper(), rungs.modules(spec))
    return str(image), str(made)


def _seed(request: RunRequest, who: Identity) -> str:
    """The NoCloud ISO of --cloud-init and --ssh-key; the user's file goes in as it is, the keys beside it."""
    if not (request.cloud_init or request.ssh_keys):
        return ""
    from images import seeds

    hostname = request.hostname or who.name.replace("_", "-").replace(".", "-")
    user_data = _text(request.cloud_init, "--cloud-init") if request.cloud_init else ""
    if user_data:
        seeds.check_user_data(user_data, request.cloud_init or "")
    keys = [_public_key(file) for file in request.ssh_keys]
    vendor = (
        "#cloud-config\n" + "".join(f"{line}\n" for line in ("ssh_authorized_keys:", *keys)) if keys else ""
    )
    meta = {"instance-id": who.id, "local-hostname": hostname}
    path = who.folder / "seed.iso"
    seeds.write(path, seeds.Seed(user_data=user_data, meta=meta, vendor_data=vendor))
    return str(path)


def _public_key(file: str) -> str:
    import json

    text = _text(file, "--ssh-key").strip()
    if "PRIVATE KEY" in text or len(text.split()) < 2 or "\n" in text:
        hint = f"give the public half, for example {file}.pub"
        raise Usage("cannot use the key", file, "it is not one line of a public key", hint)
    return f"  - {json.dumps(text)}"


def _text(file: str, flag: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Usage(
            f"cannot read the file of {flag}", file, getattr(error, "strerror", None) or str(error)
        ) from None
