"""What a container shall be: a frozen record, nothing of how."""

from __future__ import annotations

from host.errors import Usage
from host.linux.cgroup import Limits
from host.typing import Any, NamedTuple

# The eleven that podman keeps (containers.conf(5), default_capabilities).
DEFAULT_CAPABILITIES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
)
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_SHM_BYTES = 64 << 20
SHARED = "container:"  # and a neighbour's name: its namespace
ELSEWHERE = ("/", SHARED)
MINIMUM_MEMORY_BYTES = 512 << 10
UNLIMITED = Limits()


class Mount(NamedTuple):
    """One mount asked for: `kind` is "bind", "volume" (a bind of our own directory) or "tmpfs".

    `options` are words of mount(8) (nosuid, nodev, noexec, suid, dev, size=..., mode=...); `own` gives the
    source to the container's user first (docker's and podman's `:U`).
    """

    kind: str
    target: str
    source: str = ""
    read_only: bool = False
    options: tuple[str, ...] = ()
    own: bool = False
    propagation: str = "private"


class Device(NamedTuple):
    """A device node of the host inside: `access` is the cgroup's rwm."""

    source: str
    target: str
    access: str = "rwm"


class Health(NamedTuple):
    """A command run inside every `interval_s`; `action` ("none", "restart", "kill", "stop") once it is
    unhealthy.
    """

    argv: tuple[str, ...]
    interval_s: float = 30.0
    timeout_s: float = 30.0
    start_period_s: float = 0.0
    retries: int = 3
    action: str = "none"


class ContainerSpec(NamedTuple):
    """A container. `lower_dirs` are the image's unpacked layers, top first; `env` holds NAME=value words.

    Namespaces are "private", "host", "container:NAME" of the same home or a path of a namespace file
    (/proc/PID/ns/KIND); `network` also knows
    "none" (private, loopback only) and the names of networks, on which `ports` (host ip, host port, port,
    protocol), `aliases` and `ip` are wished for. `extra_hosts` are NAME:IP. `user_namespace` is "host" or
    "auto" for root, always "private" for others. `user` is read against the image's own /etc/passwd.
    `restart` is "no", "on-failure[:N]", "always" or "unless-stopped". `ephemeral` says that the writable
    layer need not survive a crash of the host (--rm). `time_offset_s` makes a time namespace whose monotonic
    and boot clocks are that much further.
    """

    name: str
    lower_dirs: tuple[str, ...]
    argv: tuple[str, ...]
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: str = ""
    groups: tuple[str, ...] = ()
    hostname: str = ""
    mounts: tuple[Mount, ...] = ()
    devices: tuple[Device, ...] = ()
    limits: Limits = UNLIMITED
    capabilities: tuple[str, ...] = DEFAULT_CAPABILITIES
    no_new_privileges: bool = True
    seccomp: str = "default"
    masked: bool = True
    privileged: bool = False
    network: str = "none"
    ports: tuple[tuple[str, int, int, str], ...] = ()
    aliases: tuple[str, ...] = ()
    ip: str = ""
    extra_hosts: tuple[str, ...] = ()
    dns: tuple[str, ...] = ()
    pid_namespace: str = "private"
    ipc_namespace: str = "private"
    uts_namespace: str = "private"
    cgroup_namespace: str = "private"
    user_namespace: str = "host"
    read_only: bool = False
    init: bool = False
    tty: bool = False
    interactive: bool = False
    shm_bytes: int = DEFAULT_SHM_BYTES
    ulimits: tuple[tuple[str, int, int], ...] = ()
    sysctls: tuple[tuple[str, str], ...] = ()
    oom_score_adj: int | None = None
    time_offset_s: float | None = None
    umask: int = 0o022
    stop_signal: str = "TERM"
    restart: str = "no"
    health: Health | None = None
    ephemeral: bool = False
    log_bytes: int = 10 << 20
    log_files: int = 3

    def to_record(self) -> dict[str, Any]:
        """The spec as JSON knows it; what equals the default is left out."""
        record = {}
        for name, value in zip(self._fields, self, strict=True):
            if name not in self._field_defaults or value != self._field_defaults[name]:
                record[name] = _plain(value)
        return record

    @classmethod
    def from_record(cls, record: dict[str, Any]) -> ContainerSpec:
        """The spec that `to_record` described; unknown fields of a later version are ignored."""
        values = {key: _tuples(value) for key, value in record.items() if key in cls._fields}
        for key, make in (("mounts", Mount), ("devices", Device)):
            if key in record:
                values[key] = tuple(make(**_record_tuples(one)) for one in record[key])
        if "limits" in record:
            values["limits"] = Limits(**_record_tuples(record["limits"]))
        if record.get("health"):
            values["health"] = Health(**_record_tuples(record["health"]))
        return cls(**values)

    def joins_network(self) -> bool:
        """Whether `network` is the name of a network of ours."""
        return self.network not in ("none", "private", "host") and not self.network.startswith(ELSEWHERE)

    def shares(self) -> bool:
        """Whether a namespace is a neighbour's."""
        kinds = (self.network, self.pid_namespace, self.ipc_namespace, self.uts_namespace)
        return any(one.startswith(SHARED) for one in kinds)

    def etc_files(self) -> tuple[str, ...]:
        """The files of /etc that are made for this container: only where there is something to resolve."""
        if self.joins_network() or self.network == "host" or self.extra_hosts or self.dns:
            return "resolv.conf", "hosts", "hostname"
        return ()


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return value._asdict()
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value


def _tuples(value: Any) -> Any:
    return tuple(_tuples(one) for one in value) if isinstance(value, list) else value


def _record_tuples(record: dict[str, Any]) -> dict[str, Any]:
    return {key: _tuples(value) for key, value in record.items()}


def check(spec: ContainerSpec) -> None:
    """Refuse with Usage what no host could run; looks at the words only."""
    _check_words(spec)
    _check_limits(spec)
    _check_score(spec)
    _check_sysctls(spec)
    _check_paths(spec)


def _check_words(spec: ContainerSpec) -> None:
    if not spec.argv or not spec.argv[0]:
        raise Usage(
            "cannot start", spec.name, "no command: neither the image nor you named one", "vmm run IMAGE CMD"
        )
    for word in (*spec.argv, *spec.env, spec.cwd, spec.user, spec.hostname):
        if "\0" in word:
            raise Usage("cannot start", spec.name, "a word holds a NUL byte")
    if len(spec.hostname) > 64:
        raise Usage("cannot set the host name", spec.hostname, "longer than 64 characters (sethostname(2))")


def _check_limits(spec: ContainerSpec) -> None:
    memory = spec.limits.memory_bytes
    if memory is not None and memory < MINIMUM_MEMORY_BYTES:
        why = f"no process can start in less than {MINIMUM_MEMORY_BYTES >> 10} KiB"
        raise Usage("cannot limit the memory to", f"{memory} bytes", why)
    refuse_cpus(spec.limits.cpus)


def refuse_cpus(cpus: float | None, most: int | None = None) -> None:
    """Raise Usage for less than the kernel knows, and for more than the `most` that a host has."""
    if cpus is not None and cpus < 0.01:
        raise Usage("cannot limit the cpus to", str(cpus), "the kernel's least share is 0.01 of a core")
    if cpus is not None and most is not None and cpus > most:
        hint = f"--cpus from 0.01 to {most}; without it all of them may be used"
        raise Usage("cannot limit the cpus to", f"{cpus:g}", f"this host has {most}", hint)


def _check_score(spec: ContainerSpec) -> None:
    if spec.oom_score_adj is not None and not -1000 <= spec.oom_score_adj <= 1000:
        raise Usage("cannot set the OOM score", str(spec.oom_score_adj), "it goes from -1000 to 1000")


# sysctl -> the namespace that has it for itself (ipc_namespaces(7), uts_namespaces(7), network_namespaces(7))
_IPC_SYSCTLS = ("fs.mqueue.", "kernel.msg", "kernel.sem", "kernel.shm")
_UTS_SYSCTLS = ("kernel.hostname", "kernel.domainname")


def _check_sysctls(spec: ContainerSpec) -> None:
    """Any other setting is the whole host's, and so is one of a namespace that it shares."""
    for name, _ in spec.sysctls:
        if name.startswith("net."):
            own = spec.network != "host" and not spec.network.startswith(ELSEWHERE)
        elif name.startswith(_IPC_SYSCTLS):
            own = spec.ipc_namespace == "private"
        else:
            own = name in _UTS_SYSCTLS and spec.uts_namespace == "private"
        if not own or ".." in name or "/" in name:
            why = "it is not of a namespace of the container's own: it would change the host"
            raise Usage("cannot set the sysctl", name, why, "sysctl on the host, if that is what you want")


def _check_paths(spec: ContainerSpec) -> None:
    if not spec.cwd.startswith("/"):
        raise Usage("cannot use the working directory", spec.cwd, "not an absolute path")
    if spec.cwd.startswith("/proc/"):
        # CVE-2024-21626: /proc/self/fd/N as cwd is a way out of the root
        raise Usage(
            "cannot use the working directory", spec.cwd, "a path inside /proc may lead out of the container"
        )
    for mount in spec.mounts:
        parts = mount.target.split("/")
        if not mount.target.startswith("/") or ".." in parts or not any(parts):
            raise Usage(
                "cannot mount on", mount.target, "the target must be an absolute path below /, without .."
            )
        if parts[1] == "proc":
            raise Usage("cannot mount on", mount.target, "nothing may cover /proc: it is what hides the host")
