"""RunRequest and image -> ContainerSpec: what docker's rules make of both."""

from __future__ import annotations

import os
import stat

from containers.spec import (
    DEFAULT_CAPABILITIES,
    DEFAULT_PATH,
    DEFAULT_SHM_BYTES,
    SHARED,
    ContainerSpec,
    Device,
    Health,
    Mount,
    refuse_cpus,
)
from host.errors import HostUnfit, NotFound, Usage, WrongState
from host.linux.cgroup import Limits
from host.typing import TYPE_CHECKING, Any
from instances import names
from instances.command import argv_of, environment

if TYPE_CHECKING:
    from images.config import ImageConfig
    from images.store import Image
    from instances.requests import RunRequest

DEFAULT_NETWORK = "bridge"


def container_spec(
    request: RunRequest, image: Image, lower_dirs: tuple[str, ...], name: str, identity: str
) -> ContainerSpec:
    """The ContainerSpec that the request and the image's own configuration ask for together."""
    config = image.config
    hostname = request.hostname or names.short(identity)
    return ContainerSpec(
        name=name,
        lower_dirs=lower_dirs,
        argv=argv_of(request, config),
        env=environment(request, config, DEFAULT_PATH, hostname),
        cwd=request.workdir or config.workdir or "/",
        user=request.user if request.user is not None else config.user,
        groups=request.groups,
        hostname=hostname,
        mounts=mounts(request, config),
        devices=tuple(_device(text) for text in request.devices),
        limits=limits(request),
        capabilities=capabilities(request),
        read_only=request.read_only,
        init=request.init,
        tty=request.tty,
        interactive=request.interactive,
        sysctls=request.sysctls,
        ulimits=tuple(_ulimit(text) for text in request.ulimits),
        stop_signal=_stop_signal(request.stop_signal or config.stop_signal),
        restart=restart_policy(request.restart),
        health=_health(request, config),
        ephemeral=request.rm,
        privileged=request.privileged,
        oom_score_adj=request.oom_score_adj,
        time_offset_s=request.time_offset_s,
        **_log(request.log_opts),
        **_resolving(request),
        **_namespaces(request),
        **_security(request),
        shm_bytes=request.shm_bytes or DEFAULT_SHM_BYTES,
        **_network(request),
    )


def limits(request: RunRequest) -> Limits:
    """The cgroup limits asked for."""
    refuse_cpus(request.cpus, os.cpu_count())
    return Limits(
        memory_bytes=request.memory_bytes,
        swap_bytes=swap_beyond(request.memory_swap_bytes, request.memory_bytes),
        cpus=request.cpus,
        shares=request.cpu_shares,
        cpuset=request.cpuset,
        pids=request.pids_limit,
        io_weight=request.io_weight,
        io_bps=_rates(request, "bps"),
        io_iops=_rates(request, "iops"),
    )


def swap_beyond(together_bytes: int | None, memory_bytes: int | None) -> int | None:
    """The swap of docker's --memory-swap, which counts memory and swap together."""
    if together_bytes is None:
        return None
    if memory_bytes is None or together_bytes < memory_bytes:
        why, hint = "it counts memory and swap together", "give --memory, not above it"
        raise Usage("cannot set --memory-swap", why=why, hint=hint)
    return together_bytes - memory_bytes


def updated(spec: dict[str, Any], changes: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A container's recorded spec after `vmm update`, and the limits (fields of Limits) among the changes."""
    limits = {key: value for key, value in changes.items() if key not in ("restart", "memory_swap_bytes")}
    refuse_cpus(limits.get("cpus"), os.cpu_count())
    now = {**spec.get("limits", {}), **limits}
    swap = swap_beyond(changes.get("memory_swap_bytes"), now.get("memory_bytes"))
    if swap is not None:
        limits["swap_bytes"] = now["swap_bytes"] = swap
    policy = {"restart": restart_policy(changes["restart"])} if "restart" in changes else {}
    return {**spec, "limits": now, **policy}, limits


def _rates(request: RunRequest, unit: str) -> tuple[tuple[str, str, int], ...]:
    return tuple(_rate(way, unit, text) for way, of, text in request.io_rates if of == unit)


def _rate(way: str, unit: str, text: str) -> tuple[str, str, int]:
    """("MAJOR:MINOR", way, rate a second) of `/dev/NAME:RATE`."""
    from host.sizes import parse_bytes

    device, colon, rate = text.rpartition(":")
    if not colon or (unit == "iops" and not rate.isdigit()):
        hint = f"for example --device-{way}-{unit} /dev/sda:{'1M' if unit == 'bps' else '100'}"
        raise Usage("cannot read the rate", repr(text), "not /dev/NAME:RATE", hint)
    try:
        seen = os.stat(device)
    except OSError as error:
        raise NotFound("no device", device, os.strerror(error.errno or 0)) from None
    if not stat.S_ISBLK(seen.st_mode):
        raise Usage("cannot limit the rate of", device, "it is not a block device")
    return f"{os.major(seen.st_rdev)}:{os.minor(seen.st_rdev)}", way, parse_bytes(rate, "rate")


def capabilities(request: RunRequest) -> tuple[str, ...]:
    """The kept ones with --cap-drop taken away and --cap-add put on top."""
    from containers.capabilities import adjusted

    return adjusted(DEFAULT_CAPABILITIES, request.cap_add, request.cap_drop)


def mounts(request: RunRequest, config: ImageConfig) -> tuple[Mount, ...]:
    """Volumes and tmpfs asked for, then the image's own volumes that nothing of these covers."""
    from instances import volumes

    made = []
    for volume in request.volumes:
        named = not volume.source.startswith("/")
        if not named and not os.path.lexists(volume.source):
            hint = "make it first: nothing of the host is made by a slip of the pen"
            raise NotFound("nothing to mount at", volume.source, hint=hint)
        source = str(volumes.data_dir(volume.source)) if named else volume.source
        kind = "volume" if named else "bind"
        if volume.propagation == "shared":
            _must_be_shared(source)
        mount = Mount(kind, volume.target, source, volume.read_only, own=volume.chown)
        made.append(mount._replace(propagation=volume.propagation))
    for text in request.tmpfs:
        target, _, options = text.partition(":")
        made.append(Mount("tmpfs", target, options=tuple(filter(None, options.split(",")))))
    return tuple(made)


def _must_be_shared(path: str) -> None:
    """Raise HostUnfit where mounts below `path` would not reach the host: /proc/self/mountinfo tells."""
    best, shared = "", False
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            left = line.partition(" - ")[0].split()
            where = left[4].encode().decode("unicode_escape") if "\\" in left[4] else left[4]
            if os.path.join(os.path.realpath(path), "").startswith(os.path.join(where, "")) and (
                len(where) >= len(best)
            ):
                best, shared = where, any(word.startswith("shared:") for word in left[6:])
    if not shared:
        hint = f"mount --bind {path} {path} && mount --make-shared {path}, or leave rshared out"
        raise HostUnfit("cannot spread mounts from", path, f"{best} is not a shared mount", hint)


def _device(text: str) -> Device:
    parts = text.split(":")
    if len(parts) > 3 or not parts[0].startswith("/dev/"):
        hint = "write it as /dev/NAME[:/dev/INSIDE[:rwm]]"
        raise Usage("cannot pass the device", repr(text), "not a path in /dev", hint)
    target = parts[1] if len(parts) > 1 and parts[1] else parts[0]
    return Device(parts[0], target, parts[2] if len(parts) > 2 else "rwm")


def _ulimit(text: str) -> tuple[str, int, int]:
    name, _, values = text.partition("=")
    soft, colon, hard = values.partition(":")
    try:
        low = -1 if soft in ("-1", "unlimited") else int(soft)
        high = low if not colon else -1 if hard in ("-1", "unlimited") else int(hard)
    except ValueError:
        raise Usage(
            "cannot read the limit", repr(text), hint="for example --ulimit nofile=1024:4096"
        ) from None
    return name, low, high


def restart_policy(policy: str) -> str:
    """The policy, when it is one; Usage otherwise."""
    word, colon, count = policy.partition(":")
    known = ("no", "always", "on-failure", "unless-stopped")
    if word not in known or (colon and (word != "on-failure" or not count.isdigit())):
        raise Usage("no restart policy", repr(policy), hint="no, on-failure[:N], always or unless-stopped")
    return policy


def _stop_signal(word: str | None) -> str:
    if not word:
        return "TERM"
    from host import signals

    signals.number(word)
    return word.upper().removeprefix("SIG")


def _health(request: RunRequest, config: ImageConfig) -> Health | None:
    told = config.healthcheck
    argv: tuple[str, ...]
    if request.no_healthcheck:
        return None
    if request.health_cmd is not None:
        argv = ("/bin/sh", "-c", request.health_cmd)
    elif told and told.test and told.test[0] == "CMD":
        argv = (*told.test[1:],)
    elif told and told.test and told.test[0] == "CMD-SHELL":
        argv = ("/bin/sh", "-c", *told.test[1:])
    else:
        return None
    plain = Health(argv)
    return Health(
        argv,
        interval_s=request.health_interval_s or (told and told.interval_ns / 1e9) or plain.interval_s,
        timeout_s=request.health_timeout_s or (told and told.timeout_ns / 1e9) or plain.timeout_s,
        start_period_s=request.health_start_s
        or (told and told.start_period_ns / 1e9)
        or plain.start_period_s,
        retries=request.health_retries or (told and told.retries) or plain.retries,
        action=request.health_action or plain.action,
    )


def _log(options: tuple[tuple[str, str], ...]) -> dict[str, Any]:
    """How large the log may grow before it is rotated, and how many files are kept, in docker's words."""
    from host.sizes import parse_bytes

    made = {}
    for key, value in options:
        if key == "max-size":
            made["log_bytes"] = parse_bytes(value, "log size")
        elif key == "max-file" and value.isdigit() and int(value):
            made["log_files"] = int(value)
        else:
            hint = "max-size=10M, max-file=3"
            raise Usage("no such log option", repr(f"{key}={value}"), hint=hint)
    return made


def _namespaces(request: RunRequest) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for field, kind, words in (
        ("pid_namespace", "pid", request.pid),
        ("ipc_namespace", "ipc", request.ipc),
        ("uts_namespace", "uts", request.uts),
    ):
        if words is not None:
            made[field] = _shared(words, kind)
    if request.userns is not None:
        if request.userns not in ("auto", "host"):
            raise Usage("no user namespace", repr(request.userns), hint="--userns auto, or host")
        made["user_namespace"] = request.userns
    return made


def _shared(words: str, kind: str) -> str:
    """A namespace's words as the spec knows them: private, host, or a neighbour's by its whole name."""
    if words in ("host", "private"):
        return words
    if words == "none" and kind == "net":
        return words
    if not words.startswith(SHARED):
        raise Usage(f"no {kind} namespace", repr(words), hint="host, or container:NAME")
    from instances import kinds, registry

    neighbour = registry.find(words.removeprefix(SHARED))
    if neighbour.kind != kinds.CONTAINER:
        raise NotFound("no container", repr(neighbour.name), "it is a machine: it has no namespace to share")
    return f"{SHARED}{neighbour.name}"


def _security(request: RunRequest) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for option in request.security_opt:
        key, _, value = option.replace(":", "=", 1).partition("=")
        if key == "seccomp":
            made["seccomp"] = value if value in ("unconfined", "default") else os.path.abspath(value)
        elif key == "no-new-privileges":
            made["no_new_privileges"] = value != "false"
        elif key == "systempaths" and value == "unconfined":
            made["masked"] = False
        else:
            hint = "seccomp=FILE|unconfined, no-new-privileges[=false], systempaths=unconfined"
            raise Usage("no security option", repr(option), hint=hint)
    return made


def _network(request: RunRequest) -> dict[str, Any]:
    words = request.network or default_network()
    if words.startswith(SHARED):
        words = _shared(words, "net")
    if words in ("none", "host") or words.startswith(SHARED):
        _no_addresses(request)
        return {"network": words}
    return {
        "network": words,
        "ports": tuple((p.host_ip, p.host_port, p.port, p.protocol) for p in request.ports),
        "aliases": request.aliases,
        "ip": request.ip or "",
    }


def _resolving(request: RunRequest) -> dict[str, Any]:
    for text in request.add_hosts:
        if not all(text.partition(":")[::2]):
            raise Usage(
                "cannot add the host", repr(text), "not NAME:ADDRESS", "for example --add-host db:10.0.0.5"
            )
    for address in request.dns:
        _must_be_address(address)
    hosts = (*request.add_hosts, *(_linked(text) for text in request.links))
    return ({"extra_hosts": hosts} if hosts else {}) | ({"dns": request.dns} if request.dns else {})


def _must_be_address(text: str) -> None:
    from ipaddress import ip_address

    try:
        ip_address(text)
    except ValueError:
        raise Usage(
            "cannot use the resolver", repr(text), "not an address", "for example --dns 9.9.9.9"
        ) from None


def _linked(text: str) -> str:
    """A line of /etc/hosts for a running neighbour, as docker's --link wrote it."""
    from host import paths
    from host.linux import net
    from instances import registry

    word, _, alias = text.partition(":")
    neighbour = registry.find(word)
    leases = net.leases_of(paths.home(), neighbour.name)
    if not leases:
        hint = "join both to one --network: names resolve there"
        raise WrongState("cannot link to", neighbour.name, "it has no address on a network", hint)
    return f"{alias or neighbour.name}:{leases[0].ip}"


def default_network() -> str:
    """The network of an instance that asks for none: `$VMM_NETWORK`, else the bridge."""
    return os.environ.get("VMM_NETWORK") or DEFAULT_NETWORK


def _no_addresses(request: RunRequest) -> None:
    """What only a member of a network can have, on one that has none."""
    words = f"--network {request.network or default_network()}"
    for flag, asked in (
        ("-p", [str(one.port) for one in request.ports]),
        ("--ip", [request.ip] if request.ip else []),
        ("--network-alias", list(request.aliases)),
    ):
        if asked:
            hint = f"leave {words} out, or {flag}"
            raise Usage(f"cannot honour {flag}", asked[0], f"{words} has no address of its own", hint)
