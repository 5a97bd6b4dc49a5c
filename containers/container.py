"""A container of one folder: started, watched and taken down."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from containers import launch, mounts, plan, privileges, runtime, seccomp, users
from containers.plan import Facts, Plan
from containers.spec import DEFAULT_CAPABILITIES, ContainerSpec, check
from host import paths
from host.edges import Edges
from host.errors import HostUnfit, WrongState
from host.linux.cgroup import Cgroup, Layout, layout
from host.stdio import Stdio
from host.typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from host.exec_request import ExecRequest
    from host.linux.idmap import IdMaps


class Container:
    """The container whose writable layer is in `folder` and whose sockets and status files are in `run`."""

    def __init__(self, folder: Path, run: Path, spec: ContainerSpec) -> None:
        self.folder, self.run_dir, self.spec = folder, run, spec
        self._layout: Layout | None = None

    @property
    def home(self) -> Path:
        """The home that the folder lies in."""
        return self.folder.parent.parent

    @property
    def cgroup_name(self) -> str:
        """The name of its cgroup: the home's digest keeps two homes on one host apart."""
        return f"{self.run_dir.parent.name}-{self.folder.name}"

    def cgroup(self) -> Cgroup:
        """Its group of processes, made or not."""
        self._layout = self._layout or layout()
        return Cgroup(self.cgroup_name, self._layout)

    def facts(self, helper_mode: str = "") -> plan.Facts:
        """What the plan needs to know of this host."""
        spec = self.spec
        roots = (str(self.folder / "upper"), *spec.lower_dirs)
        group = self.cgroup()
        mode = helper_mode or ("init" if spec.init else "")
        return plan.Facts(
            folder=str(self.folder),
            run=str(self.run_dir),
            identity=users.resolve(spec.user, roots, spec.groups),
            rootless=os.geteuid() != 0,
            cgroup_layout=group.layout,
            cgroup_name=group.name,
            helper=str(paths.guest_helper()) if mode else "",
            helper_mode=mode,
        )

    def plan(self) -> str:
        """The shell commands that would make this container by hand; touches nothing."""
        check(self.spec)
        facts = self.facts()
        return "\n".join(plan.describe(plan.plan(self.spec, facts), facts))

    def launch(self, helper_mode: str = "", terminal: Stdio | None = None) -> launch.Launch:
        """The plan made ready to run, with a terminal as large as the one that `terminal` speaks through."""
        check(self.spec)
        facts = self.facts(helper_mode)
        made = plan.plan(self._found_neighbours(), facts)
        maps = self._id_maps(facts)
        if maps:
            maps.refuse_missing(facts.identity.uid, facts.identity.gid)
        if maps and self.spec.pid_namespace != "private":
            why = "a user namespace may not mount the /proc of processes that are not its own"
            hint = "as root without --userns auto, or leave --pid out"
            raise HostUnfit("cannot share the processes of another", "namespace", why, hint)
        shifts = self._shifts_ids()
        return launch.Launch(
            plan=made,
            steps=[op for op in made.ops if op.call != "tree"] if shifts else made.ops,
            wanted=self.privileges(made, maps is None or maps.whole()),
            last_capability=privileges.last_capability(),
            cgroup=self.cgroup(),
            limits=self.spec.limits,
            launcher=str(paths.guest_helper()),
            ulimits=self.spec.ulimits,
            devices=mounts.device_rules(self.spec),
            oom_score_adj=self.spec.oom_score_adj,
            maps=maps,
            trees=(lambda: self._trees(made, maps)) if shifts and maps else None,
            terminal=_wish(terminal, made.identity.uid) if terminal else None,
            under_helper=bool(facts.helper),
        )

    def _found_neighbours(self) -> ContainerSpec:
        if not self.spec.shares():
            return self.spec
        from containers import sharing

        return sharing.resolved(self.spec, self.run_dir.parent)

    def _shifts_ids(self) -> bool:
        return self.spec.user_namespace == "auto" and os.geteuid() == 0

    def _id_maps(self, facts: Facts) -> IdMaps | None:
        if facts.rootless:
            from host.linux import idmap

            return idmap.of_user()
        if not self._shifts_ids():
            return None
        from containers import mapped

        return mapped.maps_of(self.folder)

    def privileges(
        self, made: Plan, set_groups: bool, privileged: bool | None = None
    ) -> privileges.Privileges:
        """What the command is left with; `privileged` where that is not the spec's word."""
        from containers.capabilities import names

        who = made.identity
        mask = made.capabilities & (2 << privileges.last_capability()) - 1
        if os.geteuid() == 0 and not set(names(mask)) <= set(DEFAULT_CAPABILITIES):
            mask = _grantable(mask, self.spec.privileged if privileged is None else privileged)
        profile = "unconfined" if self.spec.privileged else self.spec.seccomp
        program = seccomp.program(profile, frozenset(names(made.capabilities)), self.home / "cache")
        no_new = self.spec.no_new_privileges and not self.spec.privileged
        return privileges.Privileges(who.uid, who.gid, who.groups, set_groups, mask, no_new, program)

    def make_folders(self) -> None:
        """The two directories of the overlay, without what the last run left of a volatile one.

        overlayfs.rst, volatile mount: the kernel refuses a layer that a crash may have torn. Ours are those
        of containers that ended in order, or that the user starts again knowingly.
        """
        torn = f"{self.folder}/work/work/incompat"
        try:
            for remove, name in ((os.unlink, "/volatile/dirty"), (os.rmdir, "/volatile"), (os.rmdir, "")):
                remove(torn + name)
        except PermissionError:  # the kernel made them with mode 0, which stops everybody but root
            runtime.remove_tree(f"{self.folder}/work")
        except OSError:
            pass
        for name in ("upper", "work"):
            try:
                os.mkdir(self.folder / name, 0o755)
            except FileExistsError:
                pass
        self._give_volumes()

    def _give_volumes(self) -> None:
        """`:U`: the source and all below it belong to the container's user before it starts."""
        given = [one for one in self.spec.mounts if one.own]
        if given:
            from containers import owning

            facts = self.facts()
            maps = self._id_maps(facts)
            for mount in given:
                owning.give(mount.source, facts.identity.uid, facts.identity.gid, maps)

    def _trees(self, made: Plan, maps: IdMaps) -> dict[int, int]:
        """With --userns auto: the mounts that only the host's root may make, for the child to take over."""
        from containers import mapped

        return mapped.trees(self.spec, self.folder, made.ops, maps)

    def make_etc(self) -> None:
        """The files of /etc for a container that has names to resolve."""
        if self.spec.etc_files():
            from containers import networking

            networking.write_etc(self.run_dir, self.spec)

    def networked(self) -> bool:
        """Whether it is on a network, by its spec or by `vmm network connect`."""
        return self.spec.joins_network() or os.path.exists(f"{self.folder}/networks.json")

    def ports(self) -> list[tuple[str, int, int, str]]:
        """(host address, host port, port inside, protocol) of each published port."""
        from containers import networking

        return networking.published(self.home, self.folder, self.spec)

    def before_go(self, pid: int) -> None:
        """With the child at its gate: write it down, and give it its network."""
        runtime.record(self.run_dir, pid)
        if self.networked():
            from containers import networking

            networking.attach(self.home, self.folder, self.run_dir, self.spec, pid)

    def clean(self) -> None:
        """Give back what a run took: the network's lease, the cgroup, the run directory's pid."""
        self._note_oom()
        try:
            if self.networked():
                from containers import networking

                networking.detach(self.home, self.folder, self.run_dir, self.spec)
        finally:
            self.cgroup().remove()
            runtime.reap(self.run_dir)

    def _note_oom(self) -> None:
        """Keep from the cgroup, before it goes, whether the kernel killed for want of memory."""
        if self.spec.limits.memory_bytes is not None and self.cgroup().oom_kills():
            try:
                (self.run_dir / "oom").touch()
            except FileNotFoundError:
                pass

    def oom_killed(self) -> bool:
        """Whether a process was killed, in this run or the last, since the memory limit was used up."""
        # The cgroup first: whoever removes it has written the note before.
        limited = self.spec.limits.memory_bytes is not None
        return (limited and bool(self.cgroup().oom_kills())) or (self.run_dir / "oom").exists()

    def run(self, stdio: Stdio, edges: Edges) -> int:
        """Start in the foreground, pass stdio and signals, and return the command's status; nothing runs on.

        A command that cannot be executed is told on stdio.stderr and returns 126 or 127; other errors raise.
        """
        from containers import foreground

        self.begin_anew()
        return foreground.run(self, stdio, edges)

    def begin_anew(self) -> None:
        """Forget the last run, once whoever cleans up after it is done; WrongState where it runs still."""
        if runtime.living(self.run_dir):
            raise WrongState("cannot start", self.spec.name, "it is running already")
        self._found_neighbours()
        with runtime.held(self.run_dir) as there:
            if there:
                self.clean()
                runtime.forget(self.run_dir)

    def pid(self) -> int | None:
        """The host's pid of the container's first process, None when it does not run."""
        init = runtime.living(self.run_dir)
        return init.pid if init else None

    def state(self) -> str:
        """created, running, paused, restarting or exited: asked of the kernel."""
        if self.pid() is not None:
            return "paused" if self.cgroup().frozen() else "running"
        if not runtime.recorded(self.run_dir) and self.status() is None:
            return "created"
        return "restarting" if self._restarts() else "exited"

    def _restarts(self) -> bool:
        """Whether it starts again by itself: until the supervisor gives it up, its FIFOs stay."""
        if not os.path.exists(f"{self.run_dir}/stdout"):
            return False
        from containers import restarts

        return restarts.should_restart(self)

    def status(self) -> int | None:
        """The exit status of the last run; None where nobody saw it."""
        return runtime.status(self.run_dir)

    def exec(self, request: ExecRequest, stdio: Stdio) -> int:
        """Run another command inside; its exit status. Raises WrongState where the container does not run."""
        from containers import joining

        return joining.run(self, request, stdio)

    def exec_detached(self, request: ExecRequest) -> int:
        """Start another command inside and leave it there; 0, or 126 and 127, told on stderr."""
        from containers import joining

        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            return joining.run(self, request._replace(detach=True), Stdio(null, null, null))
        finally:
            os.close(null)

    def start(self, edges: Edges) -> None:
        """Start detached; returns once the command executes. CannotExecute carries 126 or 127."""
        from containers import detached

        detached.start(self, edges)

    def stop(self, time_s: float) -> str:
        """Ask it to end with its stop signal, SIGKILL after `time_s`; says why it took that, or ""."""
        from containers import detached

        return detached.stop(self, time_s)

    def stay_down(self) -> None:
        """What has ended stays so: a restart that is due does not come."""
        from containers import detached, restarts

        restarts.mark_stopped(self)
        if os.path.exists(f"{self.run_dir}/stdout"):
            detached.ring(self.run_dir.parent)

    def kill(self, signal: int) -> None:
        """Send a signal to the command."""
        from containers import detached

        detached.kill(self, signal)

    def pause(self) -> None:
        """Freeze every process of it."""
        if self.pid() is None:
            raise WrongState("cannot pause", self.spec.name, "it is not running")
        try:
            self.cgroup().freeze()
        except HostUnfit as error:
            error.on = self.spec.name
            raise

    def resume(self) -> None:
        """Let a paused one run on."""
        if self.pid() is None:
            raise WrongState("cannot resume", self.spec.name, "it is not running")
        self.cgroup().thaw()

    def wait(self, timeout_s: float | None = None) -> int:
        """The exit status, once it ended; raises DeadlinePassed after `timeout_s`."""
        from containers import detached

        return detached.wait(self, timeout_s)

    def logs(
        self, follow: bool, tail: int | None, timestamps: bool, out_fd: int, since_unix_s: float = 0
    ) -> None:
        """Write what it said to `out_fd`, from that moment on; with `follow` until its end."""
        from containers import detached

        detached.print_logs(self, follow, tail, timestamps, out_fd, since_unix_s)

    def remove(self) -> None:
        """Remove the writable layer, the logs and every trace outside; the folder itself is the caller's.

        Raises WrongState while it runs. Volumes and bind mounts stay: their files are not in the folder.
        """
        if runtime.living(self.run_dir):
            raise WrongState("cannot remove", self.spec.name, "it is running", "vmm stop it first, or rm -f")
        if (self.run_dir / "stdout").exists():
            from containers import detached

            self.stay_down()
            detached.settle(self)
        with runtime.held(self.run_dir):
            self.clean()
            runtime.forget(self.run_dir)
        self._remove_layer()
        for path in (*self.folder.glob("log*"), self.folder / "userns"):
            path.unlink(missing_ok=True)

    def _remove_layer(self) -> None:
        paths = [str(self.folder / name) for name in ("upper", "work")]
        try:
            _remove_trees(paths)
        except PermissionError:
            from host.linux import idmap

            # What a mapped user made belongs to a subordinate id: only the namespace's root may remove it.
            idmap.inside(idmap.of_user(), lambda: _remove_trees(paths), "cannot remove the layer")

    def attach(self, stdio: Stdio, detach_keys: bytes = b"\x10\x11", whole: bool = False) -> int:
        """Follow it, with our keys into it, until it ends or the user types the detach keys (0 then).

        `whole` shows what it said before, too.
        """
        from containers import attaching

        return attaching.attach(self, stdio, detach_keys, whole)

    def top(self) -> list[list[str]]:
        """Its processes, one row each after a header."""
        from containers import usage

        return usage.top(self)

    def stats(self) -> dict[str, int]:
        """Counters of its cgroup and network: bytes, ns, counts."""
        from containers import usage

        return usage.stats(self)

    def update(self, **limits: Any) -> ContainerSpec:
        """Change limits of the running container (fields of Limits); the spec that holds from now on."""
        from containers import usage
        from host.linux.cgroup import Limits

        self.spec = self.spec._replace(limits=usage.update(self, Limits(**limits)))
        return self.spec

    def copy_in(self, source: Path, target: str) -> None:
        """Copy a host file or directory in."""
        from containers import copying

        copying.copy_in(self, source, target)

    def copy_volume(self, source: str, target: str) -> None:
        """Fill the directory `target` with what the image has at `source`; nothing where it has nothing."""
        from containers import copying

        copying.copy_volume(self, source, target)

    def copy_out(self, source: str, target: Path) -> None:
        """Copy a file or directory of the container to the host."""
        from containers import copying

        copying.copy_out(self, source, target)

    def diff(self) -> list[tuple[str, str]]:
        """What differs from the image: (A, C or D, path)."""
        from containers import changes

        upper = self.folder / "upper"
        return changes.changes(str(upper), self.spec.lower_dirs) if upper.is_dir() else []

    def explain(self) -> str:
        """Everything behind the running container, each with the shell command that shows or makes it."""
        from containers import explaining

        return explaining.explain(self)

    def probe(self) -> str:
        """What a process inside this running container can reach, tried from inside with its very rights."""
        from containers import probing

        return probing.probe(self)

    def inspect(self) -> dict[str, Any]:
        """What is known of it now, beyond its spec."""
        from containers import restarts
        from host import records

        init = runtime.living(self.run_dir)
        checked = self.run_dir / "health.json"
        return {
            "health": records.read(checked) if init and checked.exists() else None,
            "state": self.state(),
            "status": self.status(),
            "oom_killed": self.oom_killed(),
            "restarts": restarts.count(self),
            "restart_error": restarts.error(self),
            "pid": init.pid if init else None,
            "cgroup": self.cgroup().directories(),
            "limits_left_out": self.cgroup().unset(self.spec.limits),
        }


def _grantable(mask: int, privileged: bool) -> int:
    """What we have to give: a right that a host withholds from its root, --privileged has not either."""
    from containers.capabilities import names

    missing = mask & ~privileges.permitted()
    if missing and not privileged:
        why = "this process does not have it itself"
        raise HostUnfit("cannot grant the capability", ", ".join(names(missing)), why, "leave it out")
    return mask & ~missing


def _remove_trees(paths: list[str]) -> None:
    """Remove the directories; a first process whose parent was killed may still be mounting its overlay.

    It ends at its gate, which nobody opens any more: until then the kernel makes directories in `work`.
    """
    import time

    deadline = time.monotonic() + _LATE_S
    for path in paths:
        while True:
            try:
                runtime.remove_tree(path)
                break
            except OSError as error:
                if error.errno != errno.ENOTEMPTY or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)


_LATE_S = 2.0


def _wish(stdio: Stdio, uid: int) -> Any:
    from containers.foreground import wish

    return wish(stdio, uid, console=True)
