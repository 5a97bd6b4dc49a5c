"""From a spec to the list of system calls that makes the container: pure, printable, run by nobody here.

An Op is the name of an effect of `containers.rootfs` and its arguments; `describe` says it as the shell
command that would do the same by hand.
"""

from __future__ import annotations

from collections.abc import Sequence

from containers import mounts
from containers.capabilities import mask
from containers.mounts import Op
from containers.spec import DEFAULT_PATH, ELSEWHERE, SHARED, ContainerSpec
from containers.users import Identity
from host.linux import cgroup, constants
from host.typing import NamedTuple

# kind, the spec's field, the flag of clone(2), the option of unshare(1)
NAMESPACES = (
    ("user", "user_namespace", constants.CLONE_NEWUSER, "--user"),
    ("mnt", "", constants.CLONE_NEWNS, "--mount"),
    ("pid", "pid_namespace", constants.CLONE_NEWPID, "--pid --fork"),
    ("ipc", "ipc_namespace", constants.CLONE_NEWIPC, "--ipc"),
    ("uts", "uts_namespace", constants.CLONE_NEWUTS, "--uts"),
    ("net", "network", constants.CLONE_NEWNET, "--net"),
    ("cgroup", "cgroup_namespace", constants.CLONE_NEWCGROUP, "--cgroup"),
)


class Facts(NamedTuple):
    """What the plan must know of this host and folder; everything else is in the spec."""

    folder: str
    run: str
    identity: Identity
    rootless: bool
    cgroup_layout: cgroup.Layout
    cgroup_name: str
    helper: str = ""
    helper_mode: str = "init"


class Plan(NamedTuple):
    """Everything that will be done, in order."""

    clone_flags: int
    joins: tuple[tuple[str, str], ...]
    ops: tuple[Op, ...]
    late_ops: tuple[Op, ...]
    settings: tuple[cgroup.Setting, ...]
    candidates: tuple[str, ...]
    argv: tuple[str, ...]
    env: tuple[str, ...]
    identity: Identity
    capabilities: int
    cwd: str
    umask: int
    command: str
    time_offset_s: float | None = None


def plan(spec: ContainerSpec, facts: Facts) -> Plan:
    """The plan. The cgroup namespace is not in `clone_flags`: that is made late, in the new cgroup."""
    own_user = facts.rootless or spec.user_namespace != "host"
    flags, joins = _namespaces(spec, own_user)
    env = _env(spec, facts.identity)
    host = mounts.Host(facts.folder, facts.run, own_user, facts.rootless, facts.helper)
    return Plan(
        clone_flags=flags,
        joins=joins,
        ops=tuple(mounts.root(spec, host) + mounts.inside(spec, host)),
        late_ops=tuple(mounts.late(spec, host, _hierarchies(facts))),
        settings=tuple(cgroup.settings(facts.cgroup_layout.version, spec.limits)),
        candidates=candidates(spec.argv[0], env),
        argv=_argv(spec, facts),
        env=env,
        identity=facts.identity,
        capabilities=mask(None if spec.privileged else spec.capabilities),
        cwd=spec.cwd,
        umask=spec.umask,
        command=spec.argv[0],
        time_offset_s=spec.time_offset_s,
    )


def joining(
    spec: ContainerSpec, identity: Identity, joins: tuple[tuple[str, str], ...], words: ContainerSpec
) -> Plan:
    """The plan of a further command in a running container; `words` carries its argv, env, cwd and rights."""
    env = _env(words, identity)
    return Plan(
        clone_flags=0,
        joins=joins,
        ops=(),
        late_ops=(),
        settings=(),
        candidates=candidates(words.argv[0], env),
        argv=words.argv,
        env=env,
        identity=identity,
        capabilities=mask(None if words.privileged else spec.capabilities),
        cwd=words.cwd,
        umask=spec.umask,
        command=words.argv[0],
    )


def _argv(spec: ContainerSpec, facts: Facts) -> tuple[str, ...]:
    """The command, under the helper where one is asked for; the numbers are where guest/launch.c puts
    things.
    """
    if not facts.helper:
        return spec.argv
    words = ["vmm-guest", facts.helper_mode, "--report-fd", "3"]
    if facts.helper_mode == "hold":
        words += ["--status-fd", "4"]
        if spec.tty:
            words += ["--tty", "5"]
    return (*words, "--", *spec.argv)


def _namespaces(spec: ContainerSpec, own_user: bool) -> tuple[int, tuple[tuple[str, str], ...]]:
    flags, joins = 0, []
    for kind, field, flag, _ in NAMESPACES:
        value = "private" if kind == "mnt" else getattr(spec, field)
        if kind == "user":
            value = "private" if own_user else "host"
        if value.startswith(ELSEWHERE):
            joins.append((kind, value))
        elif value != "host" and kind != "cgroup":
            flags |= flag
    return flags, tuple(joins)


def _hierarchies(facts: Facts) -> list[tuple[str, str]]:
    """v1: (directory, controllers) of each hierarchy that holds a group of ours; v2: one nameless."""
    layout = facts.cgroup_layout
    if layout.version == 2:
        return [("", "")] if layout.bases else []
    groups: dict[str, list[str]] = {}
    for controller in layout.controllers(cgroup.DEFAULT_CONTROLLERS):
        groups.setdefault(str(layout.bases[controller]), []).append(controller)
    return [(base.rsplit("/", 1)[-1], ",".join(names)) for base, names in groups.items()]


def _env(spec: ContainerSpec, identity: Identity) -> tuple[str, ...]:
    """The command's environment, later words winning, with what every program expects to find."""
    values = {
        "PATH": DEFAULT_PATH,
        "HOSTNAME": spec.hostname or spec.name,
        "HOME": identity.home,
        "container": "vmm",
    }
    if spec.tty:
        values["TERM"] = "xterm"
    for word in spec.env:
        name, _, value = word.partition("=")
        values[name] = value
    return tuple(f"{name}={value}" for name, value in values.items())


def candidates(command: str, env: Sequence[str]) -> tuple[str, ...]:
    """The paths at which the command may be: execvp's search, done before the root changes."""
    if "/" in command:
        return (command,)
    path = next(word[5:] for word in env if word.startswith("PATH="))
    return tuple(f"{directory or '.'}/{command}" for directory in path.split(":"))


def describe(plan: Plan, facts: Facts) -> list[str]:
    """The plan as shell commands, for `--dry-run` and `explain`."""
    lines = []
    for one in plan.settings:
        base = facts.cgroup_layout.bases.get(one.controller)
        if base:
            lines.append(f"echo '{one.value}' > {base}/{cgroup.PARENT}/{facts.cgroup_name}/{one.file}")
    names = [option for _, _, flag, option in NAMESPACES if plan.clone_flags & flag]
    if plan.time_offset_s is not None:
        names.append(f"--time --monotonic {plan.time_offset_s:g} --boottime {plan.time_offset_s:g}")
    joined = [f"nsenter --{kind}={_joined(kind, path)}" for kind, path in plan.joins]
    lines.append(" ".join([*joined, "unshare", *names, "--", "sh"]).strip())
    lines += [mounts.describe(op) for op in (*plan.ops, *plan.late_ops)]
    lines.append(_describe_exec(plan))
    return lines


def _joined(kind: str, place: str) -> str:
    if not place.startswith(SHARED):
        return place
    return f"/proc/$(vmm inspect --format '{{pid}}' {place.removeprefix(SHARED)})/ns/{kind}"


def _describe_exec(plan: Plan) -> str:
    import shlex

    who = plan.identity
    groups = ",".join(map(str, who.groups)) or "0"
    from containers.capabilities import names

    kept = ",".join(f"+{name.lower()}" for name in names(plan.capabilities))
    return (
        f"setpriv --reuid {who.uid} --regid {who.gid} --groups {groups} --bounding-set=-all,{kept} "
        f"--inh-caps=-all --no-new-privs env -i {shlex.join(plan.env)} {shlex.join(plan.argv)}"
    )
