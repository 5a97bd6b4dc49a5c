"""Our containers by an ordinary user: a user namespace around everything, no rights on the host."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.core.target import Cell, Held, Parts, Unavailable
from bench.targets import engine
from bench.targets.ct import Container
from bench.targets.ours import heard
from host import commands, paths
from host.errors import Unsupported

if TYPE_CHECKING:
    from instances.requests import RunRequest

TOP = Path(__file__).parents[2]
PREPARE_S = 300.0


class User(NamedTuple):
    """An ordinary user of this host, and how to run our Python as him."""

    name: str
    python: tuple[str, ...]
    env: dict[str, str]


class Rootless(Container):
    """`vmm run --ct --rm --network none` by `$VMM_BENCH_USER`, else sudo's caller, else the first user."""

    name = "ct-rootless"

    @cached_property
    def _user(self) -> User | None:
        """None where we are an ordinary user ourselves."""
        if os.geteuid():
            return None
        entry = _ordinary_user()
        if entry is None:
            raise Unsupported("no ordinary user on this host", hint="useradd -m NAME, or VMM_BENCH_USER")
        become = ("setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups")
        return User(entry.pw_name, (*become, _python(become)), _environment(entry))

    def why_unavailable(self) -> Unavailable | None:
        """User namespaces, an ordinary user, and a Python that he may run."""
        limit = Path("/proc/sys/user/max_user_namespaces")
        if not limit.exists() or limit.read_text().strip() == "0":
            return Unavailable("user namespaces are off", "sysctl user.max_user_namespaces=10000")
        try:
            return super().why_unavailable() if self._user is None else None
        except Unsupported as error:
            return Unavailable(str(error), error.hint)

    def request(self, cell: Cell) -> RunRequest:
        """Without a memory limit: a user has none to give, unless a cgroup was delegated to him."""
        asked = super().request(cell)
        return asked if self._user is None else asked._replace(memory_bytes=None)

    def prepare(self, cell: Cell) -> None:
        """One container in the user's own home: the image is in his store from here on."""
        if self._user is None:
            super().prepare(cell)
            return
        words = ("-m", "cli.main", "run", "--ct", "--rm", "--network", "none", cell.image, "true")
        argv = [*self._user.python, *words]
        commands.run(argv, "cannot run a container", timeout_s=PREPARE_S, env=self._user.env, cwd=Path("/"))

    def run_once(self, cell: Cell) -> Parts:
        """One start by an engine that is the user's."""
        user = self._user
        if user is None:
            return super().run_once(cell)
        request = self.request(cell)
        return heard(
            lambda out, err, tell: engine.spawn(request, out, err, tell, user.python, user.env), cell
        )

    @contextmanager
    def hold(self, cell: Cell) -> Iterator[Held]:
        """Only starts are measured as another user."""
        if self._user is None:
            with super().hold(cell) as held:
                yield held
            return
        raise Unsupported("cannot hold a container of another user", cell.target, "starts only")

    def cleanup(self) -> None:
        """Every run had --rm; the image stays in the user's store."""
        if self._user is None:
            super().cleanup()


def _ordinary_user() -> pwd.struct_passwd | None:
    wanted = os.environ.get("VMM_BENCH_USER") or os.environ.get("SUDO_USER")
    found = [
        entry for entry in pwd.getpwall() if 1000 <= entry.pw_uid < 60000 and Path(entry.pw_dir).is_dir()
    ]
    return next((entry for entry in found if wanted in (None, entry.pw_name)), None)


def _python(become: tuple[str, ...]) -> str:
    """Our interpreter, or the system's of the same version where ours lies in somebody's private home."""
    same = f"/usr/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
    for path in (sys.executable, same):
        argv = [*become, path, "-c", "import ctypes"]
        if (
            shutil.which(path)
            and not subprocess.run(argv, capture_output=True, check=False, cwd="/").returncode
        ):
            return path
    raise Unsupported("no Python that an ordinary user may run", hint=f"apt-get install {Path(same).name}")


def _environment(entry: pwd.struct_passwd) -> dict[str, str]:
    return {
        "HOME": entry.pw_dir,
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{TOP}:{sysconfig.get_path('purelib')}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "VMM_GUEST": str(paths.guest_helper()),
    }
