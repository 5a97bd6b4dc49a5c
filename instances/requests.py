"""What `vmm run` was asked for: its words, parsed, before any image or host is looked at."""

# Without annotations from __future__: a NamedTuple compiles the text of each, 1.5 ms for RunRequest.
from host.errors import Unsupported, Usage
from host.typing import NamedTuple
from instances.kinds import CONTAINER, MACHINE, WORDS


class Volume(NamedTuple):
    """SRC:DST[:options] of -v: a host directory (absolute) or a named volume, seen at `target`.

    An empty source is a volume of its own, without a name, which goes with the container.
    """

    source: str
    target: str
    read_only: bool = False
    chown: bool = False
    propagation: str = "private"


class Port(NamedTuple):
    """[IP:]HOST:GUEST[/udp] of -p: published on `host_ip`; host port 0 lets the kernel choose."""

    host_port: int
    port: int
    protocol: str = "tcp"
    host_ip: str = "127.0.0.1"


class RunRequest(NamedTuple):
    """The words of `vmm run`, parsed. Kinds differ in which of them they honour (`check`)."""

    image: str
    command: tuple[str, ...] = ()
    kind: str = CONTAINER
    name: str | None = None
    detach: bool = False
    interactive: bool = False
    tty: bool = False
    rm: bool = False
    memory_bytes: int | None = None
    cpus: float | None = None
    env: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    volumes: tuple[Volume, ...] = ()
    ports: tuple[Port, ...] = ()
    network: str | None = None
    aliases: tuple[str, ...] = ()
    ip: str | None = None
    entrypoint: tuple[str, ...] | None = None
    user: str | None = None
    workdir: str | None = None
    hostname: str | None = None
    stop_signal: str | None = None
    restart: str = "no"
    detach_keys: bytes = b""
    # machines only
    driver: str | None = None
    connect: str | None = None
    accel: str | None = None
    boot: str | None = None
    machine: str | None = None
    arch: str | None = None
    disk_bytes: int | None = None
    disk_format: str | None = None
    cloud_init: str | None = None
    network_config: str | None = None
    ssh_user: str | None = None
    packages: tuple[str, ...] = ()
    write_files: tuple[tuple[str, str], ...] = ()
    ssh_keys: tuple[str, ...] = ()
    kernel: str | None = None
    initrd: str | None = None
    append: str | None = None
    template: str | None = None
    keep_identity: bool = False
    cloneable: bool = False
    tpm: bool = False
    autostart: bool = False
    # containers only
    read_only: bool = False
    tmpfs: tuple[str, ...] = ()
    cap_add: tuple[str, ...] = ()
    cap_drop: tuple[str, ...] = ()
    security_opt: tuple[str, ...] = ()
    pids_limit: int | None = None
    memory_swap_bytes: int | None = None
    cpu_shares: int | None = None
    cpuset: str | None = None
    health_cmd: str | None = None
    health_interval_s: float | None = None
    health_retries: int | None = None
    health_action: str | None = None
    userns: str | None = None
    pid: str | None = None
    ipc: str | None = None
    uts: str | None = None
    init: bool = False
    links: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    privileged: bool = False
    ulimits: tuple[str, ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    shm_bytes: int | None = None
    add_hosts: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    volumes_from: tuple[str, ...] = ()
    health_timeout_s: float | None = None
    health_start_s: float | None = None
    oom_score_adj: int | None = None
    io_weight: int | None = None
    io_rates: tuple[tuple[str, str, str], ...] = ()  # (read or write, bps or iops, DEVICE:RATE)
    groups: tuple[str, ...] = ()
    time_offset_s: float | None = None
    log_opts: tuple[tuple[str, str], ...] = ()
    no_healthcheck: bool = False


# field -> (its flag, what a user of the other kind does instead)
_MACHINE_ONLY = {
    "driver": ("--driver", "a container has no hypervisor; leave the flag out, or use --vm"),
    "connect": ("--connect", "a container has no hypervisor; leave the flag out, or use --vm"),
    "accel": ("--accel", "a container runs on the host's own processor; leave the flag out, or use --vm"),
    "boot": ("--boot", "a container does not boot; leave the flag out, or use --vm"),
    "machine": ("--machine", "a container has no machine type; leave the flag out, or use --vm"),
    "arch": ("--arch", "a container runs the host's instruction set; --vm emulates others"),
    "disk_bytes": ("--disk", "a container has no disk of its own; use -v with a volume, or --vm"),
    "disk_format": ("--disk-format", "a container has no disk image; leave the flag out, or use --vm"),
    "cloud_init": ("--cloud-init", "a container runs no cloud-init; use -e, -v and the command, or --vm"),
    "ssh_user": ("--ssh-user", "--user says whom a container's command runs as; or use --vm"),
    "packages": ("--package", "a container's image has its packages: vmm image build; or use --vm"),
    "write_files": ("--write-file", "-v shares a folder with a container, vmm cp copies; or use --vm"),
    "network_config": ("--network-config", "--network, --ip and --dns say it for a container; or use --vm"),
    "ssh_keys": ("--ssh-key", "vmm exec and vmm shell need no key in a container; or use --vm"),
    "kernel": ("--kernel", "a container shares the host's kernel; use --vm for another one"),
    "initrd": ("--initrd", "a container shares the host's kernel; use --vm"),
    "append": (
        "--append",
        "a container has no kernel command line; --sysctl sets what is its own, or use --vm",
    ),
    "template": ("--from", "a container starts as fast as any clone; leave the flag out, or use --vm"),
    "keep_identity": ("--keep-identity", "a container has an identity of its own from the start"),
    "cloneable": ("--cloneable", "vmm commit NAME IMAGE makes an image of a container; or use --vm"),
    "tpm": ("--tpm", "a container has no TPM; --device passes one of the host, or use --vm"),
    "autostart": ("--autostart", "use --restart always for a container, or --vm"),
}
_CONTAINER_ONLY = {
    "read_only": ("--read-only", "a machine owns its disk: it is an overlay over the image already"),
    "tmpfs": ("--tmpfs", "mount one inside the machine, with --cloud-init or exec"),
    "cap_add": ("--cap-add", "a machine's kernel is its own: root inside has every capability"),
    "cap_drop": ("--cap-drop", "a machine's kernel is its own; drop them inside with capsh or systemd"),
    "security_opt": ("--security-opt", "the border of a machine is the hypervisor; set it inside"),
    "pids_limit": ("--pids-limit", "processes in a machine count against its --memory"),
    "memory_swap_bytes": ("--memory-swap", "a machine swaps inside, to a disk of its own"),
    "cpu_shares": ("--cpu-shares", "--cpus counts a machine's processors"),
    "cpuset": ("--cpuset-cpus", "--cpus counts a machine's processors"),
    "health_cmd": ("--health-cmd", "vmm wait --for ssh-ready asks a machine, or use --ct"),
    "health_interval_s": ("--health-interval", "machines have no health check; use --ct"),
    "health_retries": ("--health-retries", "machines have no health check; use --ct"),
    "health_action": ("--health-on-failure", "machines have no health check; use --ct"),
    "userns": ("--userns", "users in a machine are its own already"),
    "pid": ("--pid", "a machine shares no namespace; use --ct"),
    "ipc": ("--ipc", "a machine shares no namespace; use --ct"),
    "uts": ("--uts", "a machine shares no namespace; use --ct"),
    "init": ("--init", "a machine always runs the command under our init"),
    "links": ("--link", "join both to one --network: names resolve there"),
    "restart": ("--restart", "--autostart lets a libvirt machine come up with the host"),
    "devices": ("--device", "a machine's devices are emulated; use --ct for one of the host"),
    "privileged": ("--privileged", "a machine's root owns the whole machine already"),
    "ulimits": ("--ulimit", "set limits inside the machine"),
    "sysctls": ("--sysctl", "use --append sysctl.KEY=VALUE"),
    "shm_bytes": ("--shm-size", "remount /dev/shm inside the machine"),
    "add_hosts": ("--add-host", "write /etc/hosts inside, or join a --network where names resolve"),
    "dns": ("--dns", "machines ask the resolver of their network"),
    "volumes_from": ("--volumes-from", "name the folders or volumes with -v"),
    "health_timeout_s": ("--health-timeout", "machines have no health check; use --ct"),
    "health_start_s": ("--health-start-period", "machines have no health check; use --ct"),
    "oom_score_adj": ("--oom-score-adj", "a machine's memory is its own; --memory bounds it"),
    "io_weight": ("--blkio-weight", "use --ct"),
    "io_rates": ("--device-read-bps and its kin", "use --ct"),
    "groups": ("--group-add", "name user and group together: --user USER:GROUP"),
    "time_offset_s": ("--time-offset", "a machine has clocks of its own"),
    "log_opts": ("--log-opt", "what a machine says is not rotated; use --ct"),
    "no_healthcheck": ("--no-healthcheck", "machines have no health check"),
    "detach_keys": ("--detach-keys", "start it with -d; vmm exec -it and vmm console go inside and leave"),
}


def check(request: RunRequest) -> RunRequest:
    """The request itself; raises Unsupported for a flag of the other kind, Usage for words that clash."""
    foreign = _MACHINE_ONLY if request.kind == CONTAINER else _CONTAINER_ONLY
    plain = RunRequest(image=request.image)
    for field, (flag, instead) in foreign.items():
        if getattr(request, field) != getattr(plain, field):
            raise Unsupported(f"{flag} is not for a {WORDS[request.kind]}", hint=instead)
    if request.detach and (request.interactive or request.tty) and request.kind == MACHINE:
        raise Usage(
            "-d and -i or -t do not go together for a machine", hint="vmm console NAME joins a running one"
        )
    if request.kind == MACHINE and not all(volume.source for volume in request.volumes):
        hint = "a machine keeps its files on its own disk; -v NAME:/path gives it a volume"
        raise Unsupported("an anonymous volume is not for a machine", hint=hint)
    if request.keep_identity and not request.template:
        hint = "vmm run --vm --from TEMPLATE --keep-identity"
        raise Usage("--keep-identity is for a clone of a named template", hint=hint)
    if request.rm and request.restart != "no":
        raise Usage(
            "--rm and --restart do not go together", hint="an instance that is removed cannot start again"
        )
    return request


def parse_port(text: str) -> tuple[Port, ...]:
    """Ports of `8080:80`, `127.0.0.1:8080:80/udp`, `80` (any host port) or a range `8000-8003:80-83`."""
    words, _, protocol = text.partition("/")
    protocol = protocol or "tcp"
    host_ip, host, inside = _split_port(words)
    if protocol not in ("tcp", "udp"):
        raise _bad_port(text)
    first, last = _range(inside, text)
    if host in ("", "0"):
        return tuple(Port(0, port, protocol, host_ip) for port in range(first, last + 1))
    host_first, host_last = _range(host, text)
    if host_last - host_first != last - first:
        why = f"{host_last - host_first + 1} ports of the host for {last - first + 1} inside"
        raise Usage("cannot read the ports", repr(text), why, "for example -p 8000-8003:80-83")
    return tuple(Port(host_first + step, first + step, protocol, host_ip) for step in range(last - first + 1))


def _split_port(words: str) -> tuple[str, str, str]:
    if words.startswith("["):  # an IPv6 address
        address, _, rest = words[1:].partition("]:")
        host, _, inside = rest.rpartition(":")
        return address, host, inside
    parts = words.split(":")
    if len(parts) > 3:
        raise _bad_port(words)
    # Nothing is open to the network unless asked: docker's 0.0.0.0 default is its best known trap.
    parts = ["127.0.0.1", "", *parts][-3:] if len(parts) < 2 else ["127.0.0.1", *parts][-3:]
    return parts[0], parts[1], parts[2]


def _range(text: str, whole: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    if not (first.isascii() and first.isdigit()) or (dash and not (last.isascii() and last.isdigit())):
        raise _bad_port(whole)
    low, high = int(first), int(last) if dash else int(first)
    if not 0 < low <= high < 65536:
        raise _bad_port(whole)
    return low, high


def _bad_port(text: str) -> Usage:
    return Usage("cannot read the port", repr(text), "not [IP:]HOST:GUEST[/udp]", "for example -p 8080:80")


def parse_volume(text: str) -> Volume:
    """A Volume of `SRC:DST[:ro|rw|U,...]`, or `DST` alone for an anonymous one; Usage for a relative DST."""
    parts = text.split(":")
    if len(parts) == 1 and text.startswith("/"):
        return Volume("", text)
    options = set(parts[2].split(",")) if len(parts) == 3 else set()
    spread = [word for word in options if word in _PROPAGATIONS]
    known = {"ro", "rw", "U", "z", "Z", *_PROPAGATIONS}
    good = len(parts) in (2, 3) and all(parts[:2]) and options <= known and len(spread) < 2
    if not good or not parts[1].startswith("/"):
        hint = "write it as /host/dir:/inside[:ro] or volume:/inside[:ro]"
        raise Usage("cannot read the volume", repr(text), "not SRC:DST[:ro]", hint)
    propagation = _PROPAGATIONS[spread[0]] if spread else "private"
    return Volume(_source(parts[0]), parts[1], "ro" in options, "U" in options, propagation)


# docker's words for mount_namespaces(7); we always mean the mounts below, too
_PROPAGATIONS = {f"{r}{kind}": kind for r in ("", "r") for kind in ("private", "slave", "shared")}
_MOUNT_KEYS = {"source": "src", "destination": "dst", "target": "dst", "readonly": "ro"}


def parse_mount(text: str) -> Volume | str:
    """docker's `type=bind,src=/a,dst=/b,ro` as a Volume, or for type=tmpfs the words of --tmpfs; Usage."""
    words = {}
    for part in text.split(","):
        key, equals, value = part.partition("=")
        words[_MOUNT_KEYS.get(key, key)] = value if equals else "true"
    kind, target = words.pop("type", "volume"), words.pop("dst", "")
    read_only = words.pop("ro", "false") not in ("false", "0")
    hint = "for example type=bind,src=/data,dst=/inside,ro, or type=tmpfs,dst=/scratch,tmpfs-size=64m"
    if not target.startswith("/") or kind not in ("bind", "volume", "tmpfs"):
        raise Usage(
            "cannot read the mount", repr(text), "it needs type=bind|volume|tmpfs and an absolute dst", hint
        )
    if kind == "tmpfs":
        options = [
            f"{key}={words.pop(f'tmpfs-{key}')}" for key in ("size", "mode") if f"tmpfs-{key}" in words
        ]
        made: Volume | str = f"{target}:{','.join([*options, *(['ro'] if read_only else [])])}"
    else:
        source = words.pop("src", "")
        if kind == "bind" and not source.startswith("/"):
            raise Usage("cannot read the mount", repr(text), "a bind needs an absolute src", hint)
        spread = words.pop("bind-propagation", "rprivate")
        made = Volume(
            _source(source) if source else "", target, read_only, False, _PROPAGATIONS.get(spread, "")
        )
    if words or (isinstance(made, Volume) and not made.propagation):
        raise Usage("cannot read the mount", repr(text), f"unknown words: {', '.join(words) or spread}", hint)
    return made


def _source(text: str) -> str:
    import os

    if text.startswith(("/", "./", "../", "~")) or text in (".", ".."):
        return os.path.abspath(os.path.expanduser(text))
    if "/" in text:
        hint = f"a folder of the host begins with / or ./, so ./{text}"
        raise Usage("cannot use the volume", repr(text), "a volume's name has no slash", hint)
    from instances.names import check as checked

    return checked(text)


def parse_env(words: list[str], environ: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """Pairs of `K=V`; a bare `K` takes the value of our own environment, or is left out, as docker does."""
    pairs = []
    for word in words:
        key, equals, value = word.partition("=")
        if not key or "\0" in word:
            raise Usage("cannot read the variable", repr(word), "it has no name", "for example -e COLOR=blue")
        if equals:
            pairs.append((key, value))
        elif key in environ:
            pairs.append((key, environ[key]))
    return tuple(pairs)
