"""A container of one folder: started, watched and taken down."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from containers import launch, plan, privileges, rootfs, seccomp, users
from containers.plan import Plan
from containers.spec import ContainerSpec, check
from host import paths
from host.edges import Edges
from host.errors import Failure
from host.linux.cgroup import Cgroup, Layout, layout
from host.stdio import Stdio

# Signals that a person or a supervisor sends to the command through us; the rest is ours.
PROXIED = frozenset(
    (
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTERM,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGCONT,
    )
)
_IMPATIENCE = 3


class Container:
    """The container whose writable layer is in `folder` and whose sockets and status files are in `run`."""

    def __init__(self, folder: Path, run: Path, spec: ContainerSpec) -> None:
        self.folder, self.run_dir, self.spec = folder, run, spec
        self._layout: Layout | None = None

    @property
    def cgroup_name(self) -> str:
        """The name of its cgroup: the home's digest keeps two homes on one host apart."""
        return f"{self.run_dir.parent.name}-{self.folder.name}"

    def _cgroup(self) -> Cgroup:
        self._layout = self._layout or layout()
        return Cgroup(self.cgroup_name, self._layout)

    def _facts(self) -> plan.Facts:
        spec = self.spec
        roots = (str(self.folder / "upper"), *spec.lower_dirs)
        identity = users.resolve(spec.user, roots, spec.groups)
        group = self._cgroup()
        return plan.Facts(str(self.folder), identity, os.geteuid() != 0, group.layout, group.name)

    def plan(self) -> str:
        """The shell commands that would make this container by hand; touches nothing."""
        check(self.spec)
        facts = self._facts()
        return "\n".join(plan.describe(plan.plan(self.spec, facts), facts))

    def _launch(self) -> launch.Launch:
        check(self.spec)
        facts = self._facts()
        made = plan.plan(self.spec, facts)
        group = self._cgroup()
        return launch.Launch(
            plan=made,
            steps=rootfs.compiled(made.ops),
            late_steps=rootfs.compiled(made.late_ops),
            wanted=self._privileges(made),
            cgroup=group,
            limits=self.spec.limits,
            ulimits=self.spec.ulimits,
            oom_score_adj=self.spec.oom_score_adj,
        )

    def _privileges(self, made: Plan) -> privileges.Privileges:
        from containers.capabilities import names

        who = made.identity
        profile = "unconfined" if self.spec.privileged else self.spec.seccomp
        cache = paths.home() / "cache"
        program = seccomp.program(profile, frozenset(names(made.capabilities)), cache)
        no_new = self.spec.no_new_privileges and not self.spec.privileged
        return privileges.Privileges(who.uid, who.gid, who.groups, True, made.capabilities, no_new, program)

    def _make_folders(self) -> None:
        for name in ("upper", "work", "merged"):
            try:
                os.mkdir(self.folder / name, 0o755)
            except FileExistsError:
                pass

    def run(self, stdio: Stdio, edges: Edges) -> int:
        """Start in the foreground, pass stdio and signals, and return the command's status; leaves nothing running.

        A command that cannot be executed is told on stdio.stderr and returns 126 or 127; other errors raise.
        """
        ready = self._launch()
        self._make_folders()
        edges.mark("t1")
        before = signal.pthread_sigmask(signal.SIG_BLOCK, PROXIED | {signal.SIGCHLD})
        try:
            return self._foreground(ready, stdio, edges)
        except launch.CannotExecute as error:
            os.write(stdio.stderr, f"vmm: {error}\n".encode())
            return error.exit_status
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            ready.cgroup.kill()
            ready.cgroup.remove()
            edges.mark("t9")

    def _foreground(self, ready: launch.Launch, stdio: Stdio, edges: Edges) -> int:
        null = -1 if stdio.interactive else os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        try:
            stdin = stdio.stdin if stdio.interactive else null
            pid = launch.start(ready, (stdin, stdio.stdout, stdio.stderr), edges)
        finally:
            if null >= 0:
                os.close(null)
        try:
            return _watch(pid)
        except BaseException:
            launch.put_down(pid)
            raise

    def state(self) -> str:
        """created, running, paused or exited: read from the kernel."""
        raise Failure("cannot tell the state", self.spec.name, "not written yet")


def _watch(pid: int) -> int:
    """Wait for the command and pass signals on to it; they are blocked, so none is lost and none interrupts."""
    asked = 0
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return 128 - code if code < 0 else code
        number = signal.sigwait(PROXIED | {signal.SIGCHLD})
        if number == signal.SIGCHLD:
            continue
        asked += number in (signal.SIGINT, signal.SIGTERM)
        # pid 1 of a namespace ignores what it does not handle: the third time means it
        os.kill(pid, signal.SIGKILL if asked >= _IMPATIENCE else number)
