"""RUN: its command in every form, its mounts, and the tidying of what the container left."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from host.errors import NotFound
from images import copying, layers
from images.copying import Source
from images.dockerfile import Instruction, broken
from images.merged import Merged
from images.steps import Step, StepMount

if TYPE_CHECKING:
    from images.build import Build
    from images.stage import Stage

_HEREDOC_ALONE = re.compile(r"<<-?([\"']?)([A-Za-z_][\w.]*)\1")
_MOUNT_KEYS = {"type", "target", "dst", "destination", "source", "src", "from", "id", "readonly", "ro", "rw",
               "readwrite", "sharing", "mode", "uid", "gid", "required", "size"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class MountWish:
    """A RUN --mount as it was said."""

    kind: str
    target: str
    source: str
    tree: str
    name: str
    read_only: bool
    required: bool


def command(stage: Stage, one: Instruction) -> tuple[str, ...]:
    """The words to run: exec form, shell form, or a here-document as the script."""
    if not one.heredocs:
        return stage.command(one)
    whole = one.rest.strip()
    if _HEREDOC_ALONE.fullmatch(whole):
        script = one.heredocs[0].content
        if not script.startswith("#!"):
            return (*stage.shell, script)
        # A script with its own interpreter must be a file; the shell of the image writes it.
        lines = f"cat >/tmp/.step <<'{one.heredocs[0].name}'\n{script}{one.heredocs[0].name}\n"
        return (*stage.shell, f"{lines}chmod +x /tmp/.step; /tmp/.step; s=$?; rm -f /tmp/.step; exit $s")
    documents = "".join(f"{doc.content}{doc.name}\n" for doc in one.heredocs)
    return (*stage.shell, f"{one.rest}\n{documents}")


def environment(stage: Stage) -> tuple[str, ...]:
    """The variables of a RUN: arguments, and the image's own, which win."""
    default = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    declared = {k: v for k, v in stage.arguments.items()}
    return tuple(f"{name}={value}" for name, value in {**default, **declared, **stage.environment}.items())


def parse_mounts(stage: Stage, one: Instruction) -> list[MountWish]:
    """The --mount flags; BadData for a type or key that is not known."""
    return [_wish(stage, one, value) for key, value in one.flags if key == "mount"]


def _wish(stage: Stage, one: Instruction, text: str) -> MountWish:
    told: dict[str, str] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in _MOUNT_KEYS:
            raise broken(one.line, f"--mount has no key {name!r}")
        told[name] = stage.expand(value, one)
    kind = told.get("type", "bind")
    if kind not in ("bind", "cache", "tmpfs", "secret"):
        raise broken(one.line, f"--mount=type={kind} is not known", "bind, cache, tmpfs and secret are")
    target = told.get("target") or told.get("dst") or told.get("destination") or ""
    if not target and kind == "secret":
        target = f"/run/secrets/{told.get('id', '')}"
    if not target:
        raise broken(one.line, "--mount needs a target")
    wants_write = any(told.get(key, "no") in ("", "true") for key in ("rw", "readwrite"))
    wants_read = any(told.get(key, "no") in ("", "true") for key in ("ro", "readonly"))
    read_only = kind == "secret" or wants_read or (kind == "bind" and not wants_write)
    source = told.get("source") or told.get("src") or ""
    required = told.get("required", "false") in ("", "true")
    name = told.get("id", "")
    return MountWish(
        kind, stage.at(target).rstrip("/"), source, told.get("from", ""), name, read_only, required
    )


def fingerprint(build: Build, stage: Stage, mounts: list[MountWish]) -> list[object]:
    """What of the mounts decides the result of the step: the content of binds, the words of the others."""
    found: list[object] = []
    for mount in mounts:
        content = ""
        if mount.kind == "bind":
            target = copying.Target(Merged(()), "/m/", 0)
            copying.copy(target, _tree(build, mount), [mount.source or "/"], copying.Ownership(None, None))
            content = copying.digest(target.made)
        found.append([mount.kind, mount.target, mount.source, mount.tree, mount.name, content])
    return found


def _tree(build: Build, mount: MountWish) -> Source:
    return Source(Merged(build.tree_of(mount.tree))) if mount.tree else build.context


def place(build: Build, mount: MountWish, held: contextlib.ExitStack, half: Path) -> StepMount:
    """The mount with its source on disk; what was made for it goes with `held` or `half`."""
    if mount.kind == "tmpfs":
        return StepMount("tmpfs", mount.target)
    if mount.kind == "cache":
        return StepMount("bind", mount.target, build.cache.mount(mount.name or mount.target), mount.read_only)
    if mount.kind == "secret":
        return _secret(build, mount, half)
    if mount.tree:
        from images import disks

        root = held.enter_context(disks.tree(build.store, build.tree_of(mount.tree)))
        found = Merged((root,)).find(mount.source or "/")
    else:
        found = build.context.tree.find(mount.source or "/")
    if found is None:
        raise NotFound("cannot mount", mount.source, "it is not in the source")
    return StepMount("bind", mount.target, found.path, mount.read_only)


def _secret(build: Build, mount: MountWish, half: Path) -> StepMount:
    name = mount.name or os.path.basename(mount.target)
    source = build.request.secrets.get(name)
    if source is None:
        if mount.required:
            raise NotFound(
                "cannot mount the secret", name, hint=f"vmm image build --secret id={name},src=FILE"
            )
        source = half / "no-secret"
        source.touch(mode=0o400)
    return StepMount("bind", mount.target, source, read_only=True)


# What a container gets from outside: where it was mounted, an empty file or directory stays behind.
_MOUNTED = ("etc/hosts", "etc/resolv.conf", "etc/hostname", "proc", "sys", "dev")


def tidy(step: Step) -> None:
    """Take away the places of mounts that the image did not have: the command did not make them."""
    upper, below = step.folder / "upper", Merged(step.lowers)
    for name in (*_MOUNTED, *(mount.target.strip("/") for mount in step.mounts)):
        parts = tuple(name.split("/"))
        while parts and below.lookup(parts) is None and _remove_empty(upper.joinpath(*parts)):
            parts = parts[:-1]


def _remove_empty(path: Path) -> bool:
    """Remove an empty file or directory; whether it is gone."""
    with contextlib.suppress(OSError):
        status = path.lstat()
        if stat.S_ISREG(status.st_mode) and status.st_size == 0:
            path.unlink()
        elif stat.S_ISDIR(status.st_mode):
            path.rmdir()
    return not os.path.lexists(path)


def clean(half: Path) -> None:
    """Remove from a half-made layer everything but its tree."""
    for path in half.iterdir():
        if path.name != "root":
            layers.remove_tree(path) if path.is_dir() else path.unlink()
