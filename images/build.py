"""Build an image of a Dockerfile: stages on demand, a layer for each step that changes files, a cache.

`images` cannot run a command: a StepRunner is handed in, and so is the way to an image that is not here.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from host.errors import BadData, CommandFailed, Failure, NotFound, Unsupported, Usage
from images import additions, cache, copying, dockerfile, ignore, pack, runs, stages
from images import config as configs
from images.cache import Cache
from images.copying import Ownership, Source, Target
from images.dockerfile import Instruction, broken
from images.layers import Layer, chain_ids
from images.merged import Merged
from images.stage import Stage, located
from images.steps import Step, StepRunner
from images.store import Image, Store, now_unix_s, rfc3339

Progress = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Request:
    """A build: `arguments` of --build-arg, `secrets` by id, `output` the descriptor for what commands say."""

    context: Path
    names: tuple[str, ...] = ()
    dockerfile: Path | None = None
    arguments: Mapping[str, str] = field(default_factory=dict)
    target: str = ""
    no_cache: bool = False
    labels: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Path] = field(default_factory=dict)
    network: str = "default"
    output: int = 2


def build(
    store: Store,
    request: Request,
    run_step: StepRunner,
    provide: Callable[[str], Image] | None = None,
    progress: Progress = lambda _line: None,
) -> Image:
    """Build and store the image under the request's names.

    `provide` gives an image that a FROM or a --from names. Failures name the Dockerfile's line; CommandFailed
    where a RUN ends with another status than 0.
    """
    with store.using():
        return Build(store, request, run_step, provide or store.resolve, progress).image()


class Build:
    """One build."""

    def __init__(
        self,
        store: Store,
        request: Request,
        run_step: StepRunner,
        provide: Callable[[str], Image],
        progress: Progress,
    ) -> None:
        self.store, self.request, self.run_step = store, request, run_step
        self.provide, self.progress = provide, progress
        self.file = request.dockerfile or request.context / "Dockerfile"
        self.plan = stages.split(dockerfile.parse(_text(self.file)), request.arguments)
        self.cache = Cache(store, reads=not request.no_cache)
        self.context = Source(Merged((request.context,)), ignore.of_context(request.context, self.file))
        self.built: dict[int, Stage] = {}

    def image(self) -> Image:
        """Build the target stage and store it."""
        stage = self.stage(self.plan.target(self.request.target))
        self._refuse_unknown_arguments()
        document = self._document(stage)
        layers = [
            {"mediaType": layer.media_type, "digest": layer.digest, "size": layer.size}
            for layer in stage.layers
        ]
        return [self.store.add(document, layers, name) for name in self.request.names or ("",)][-1]

    def _refuse_unknown_arguments(self) -> None:
        used = {name for stage in self.built.values() for name in stage.used} | set(self.plan.arguments)
        unknown = set(self.request.arguments) - used - stages.PREDEFINED
        if unknown:
            self.progress(f"no ARG takes the build argument {', '.join(sorted(unknown))}")

    def _document(self, stage: Stage) -> dict[str, Any]:
        config = stage.config._replace(labels={**stage.config.labels, **self.request.labels})
        document: dict[str, Any] = {
            "architecture": configs.host_architecture(),
            "os": "linux",
            "created": stage.created or rfc3339(now_unix_s()),
            "config": configs.to_oci(config),
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id for layer in stage.layers]},
            "history": stage.history,
        }
        return {**document, "author": stage.author} if stage.author else document

    # stages

    def stage(self, plan: stages.StagePlan) -> Stage:
        """The finished stage, built if it is not yet."""
        if plan.index not in self.built:
            stage = self._begin(plan)
            triggers = stage.config.onbuild
            stage.config = stage.config._replace(onbuild=())
            for text in triggers:
                for one in dockerfile.parse(text):
                    self._obey(stage, replace(one, line=plan.line), f"ONBUILD of {plan.base}")
            for number, one in enumerate(plan.instructions, 1):
                self._obey(stage, one, f"{number}/{len(plan.instructions)}")
            self.built[plan.index] = stage
        return self.built[plan.index]

    def _begin(self, plan: stages.StagePlan) -> Stage:
        stage = Stage(plan, self.request.arguments, self.plan.arguments)
        stage.arguments.update({k: v for k, v in self.request.arguments.items() if k in stages.PREDEFINED})
        earlier = self.plan.find(plan.base, before=plan.index)
        if earlier is not None:
            base = self.stage(earlier)
            stage.config, stage.step, stage.created = base.config, base.step, base.created
            stage.layers, stage.history, stage.author = [*base.layers], [*base.history], base.author
        elif plan.base != "scratch":
            self._begin_of_image(stage, plan)
        return stage

    def _begin_of_image(self, stage: Stage, plan: stages.StagePlan) -> None:
        try:
            image = self.provide(plan.base)
        except Failure as error:
            error.on = f"{error.on} (Dockerfile line {plan.line})"
            raise
        self.store.lower_dirs(image)
        document = self.store.document(image.digest)
        stage.config, stage.layers = image.config, self.store.stack(image.digest)
        stage.history, stage.created = list(document.get("history") or []), str(document.get("created") or "")
        stage.author = str(document.get("author") or "")
        chain = stage.layers[-1].chain_id if stage.layers else ""
        stage.step = cache.key("FROM", chain, configs.to_oci(image.config))

    # instructions

    def _obey(self, stage: Stage, one: Instruction, where: str) -> None:
        began = time.monotonic()
        name = stage.plan.name or f"stage {stage.plan.index}"
        self.progress(f"[{name} {where}] {str(one)[:100]}")
        try:
            if one.word not in ("RUN", "COPY", "ADD", "WORKDIR"):
                return stage.configure(one)
            cached = self._layering(stage, one)
        except Failure as error:
            raise located(one, error) from error.__cause__
        told = "cached" if cached else f"done in {time.monotonic() - began:.1f} s"
        self.progress(f"[{name} {where}] {told}")

    def _layering(self, stage: Stage, one: Instruction) -> bool:
        """Obey an instruction that makes a layer; whether the cache had it."""
        if one.word == "RUN":
            return self._run(stage, one)
        if one.word == "WORKDIR":
            return self._workdir(stage, one)
        return self._copy(stage, one)

    def lowers(self, stage: Stage) -> tuple[Path, ...]:
        """The unpacked layers of a stage, top first."""
        return self.store.layers.ensure(self.store.blobs, stage.layers)

    def _found(self, stage: Stage, one: Instruction, text: str = "") -> bool:
        """Take the layer of the step whose key the stage has now from the cache."""
        known = self.cache.find(stage.step)
        if known is None:
            return False
        layer, created = known
        stage.layers.append(layer)
        stage.remember(one, empty=False, created=created, text=text)
        return True

    def _keep(self, stage: Stage, one: Instruction, packed: pack.Packed, text: str = "") -> Layer:
        """Put the layer on top of the stage, and remember it."""
        told = packed.descriptor
        below = [layer.diff_id for layer in stage.layers]
        chain = chain_ids([*below, packed.diff_id])[-1]
        layer = Layer(told["digest"], told["size"], told["mediaType"], packed.diff_id, chain)
        stage.layers.append(layer)
        stage.remember(one, empty=False, created=rfc3339(now_unix_s()), text=text)
        self.cache.keep(stage.step, layer, stage.created)
        return layer

    def _run(self, stage: Stage, one: Instruction) -> bool:
        argv = runs.command(stage, one)
        mounts = runs.parse_mounts(stage, one)
        fixed = runs.fingerprint(self, stage, mounts)
        stage.step = cache.key(stage.step, "RUN", argv, sorted(stage.config.env), stage.key_arguments(),
                               stage.config.user, stage.config.workdir, fixed)  # fmt: skip
        text = " ".join(argv)
        if self._found(stage, one, text):
            return True
        lowers = self.lowers(stage)
        with self.store.layers.making() as half, contextlib.ExitStack() as held:
            shown = tuple(runs.place(self, mount, held, half) for mount in mounts)
            step = Step(
                folder=half / "step",
                lowers=lowers or (self.store.empty_layer(),),
                argv=argv,
                env=runs.environment(stage),
                workdir=stage.config.workdir,
                user=stage.config.user,
                network=one.flag("network") or self.request.network,
                mounts=shown,
            )
            step.folder.mkdir()
            status = self.run_step(step, self.request.output)
            if status:
                raise CommandFailed(f"the command failed: {text[:200]}", argv, status, "")
            runs.tidy(step)
            self._keep_upper(stage, one, step.folder / "upper", half, text)
        return False

    def _keep_upper(self, stage: Stage, one: Instruction, upper: Path, half: Path, text: str) -> None:
        """The changed tree is in overlayfs' form already: it becomes the unpacked layer as it is."""
        layer = self._keep(stage, one, pack.pack_tree(self.store.blobs, upper), text)
        (half / "root").rmdir()
        upper.rename(half / "root")
        runs.clean(half)
        self.store.layers.keep(half, layer.chain_id, layer.diff_id)

    def _workdir(self, stage: Stage, one: Instruction) -> bool:
        path = stage.at(stage.expand(one.rest, one)).rstrip("/") or "/"
        stage.config = stage.config._replace(workdir=path)
        stage.step = cache.key(stage.step, "WORKDIR", path)
        tree = Merged(self.lowers(stage))
        if path == "/" or tree.find(path) is not None:
            stage.remember(one, empty=True)
            return True
        if self._found(stage, one):
            return True
        target = Target(tree, path + "/", now_unix_s())
        target.ensure_parents((*target.real(), ""))
        self._keep(stage, one, pack.pack_items(self.store.blobs, target.made))
        return False

    def _copy(self, stage: Stage, one: Instruction) -> bool:
        words = list(one.exec_form) if one.exec_form is not None else one.rest.split()
        words = [stage.expand(word, one) for word in words]
        if len(words) < 2:
            raise broken(one.line, f"{one.word} needs a source and a destination")
        tree = Merged(self.lowers(stage))
        target = Target(tree, stage.at(words[-1]), now_unix_s())
        with self._staged() as scratch:
            self._fill(stage, one, words[:-1], target, scratch)
            stage.step = cache.key(stage.step, one.word, copying.digest(target.made))
            if self._found(stage, one):
                return True
            self._keep(stage, one, pack.pack_items(self.store.blobs, target.made))
        return False

    def _fill(self, stage: Stage, one: Instruction, words: list[str], target: Target, scratch: Path) -> None:
        source, owner = self._source(one), self._owner(stage, one, target.below)
        documents = {f"<<{doc.name}": doc for doc in one.heredocs}
        named: list[str] = []
        for word in words:
            plain = word.lstrip("0123456789").replace("<<-", "<<")
            if plain in documents:
                doc = documents[plain]
                text = stage.expand(doc.content, one) if doc.expands else doc.content
                copying.inline(target, doc.name, text.encode(), owner)
            elif one.word == "ADD" and additions.is_remote(word):
                additions.remote(target, word, owner, one.flag("checksum"), scratch)
            elif one.word == "ADD" and additions.archive(target, source, word, owner, scratch):
                continue
            else:
                named.append(word)
        if named:
            copying.copy(target, source, named, owner)

    def _source(self, one: Instruction) -> Source:
        exclude = ignore.Rules(value for key, value in one.flags if key == "exclude")
        word = one.flag("from")
        if word is None:
            return replace(self.context, exclude=exclude)
        return Source(Merged(self.tree_of(word)), exclude=exclude)

    def tree_of(self, word: str) -> tuple[Path, ...]:
        """The unpacked layers of what --from names: a stage, else an image."""
        plan = self.plan.find(word)
        if plan is not None:
            return self.lowers(self.stage(plan))
        return self.store.lower_dirs(self.provide(word))

    def _owner(self, stage: Stage, one: Instruction, tree: Merged) -> Ownership:
        word = one.flag("chown")
        uid = gid = None if one.flag("from") is not None else 0
        if word is not None:
            uid, gid = additions.ids(tree, stage.expand(word, one))
        mode = one.flag("chmod")
        if mode is None:
            return Ownership(uid, gid)
        digits = stage.expand(mode, one)
        if not (digits and all(digit in "01234567" for digit in digits) and int(digits, 8) <= 0o7777):
            raise broken(one.line, f"--chmod={digits} is no octal mode", "write it as 755 or 0644")
        return Ownership(uid, gid, int(digits, 8))

    @contextlib.contextmanager
    def _staged(self) -> Iterator[Path]:
        with self.store.layers.making() as half:
            yield half


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise NotFound(
            "cannot build", str(path), "there is no such Dockerfile", "-f FILE names another"
        ) from None
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise BadData("cannot read the Dockerfile", str(path), str(error)) from None


def check_context(path: Path) -> Path:
    """The directory of a build; Usage for what is none."""
    if str(path).startswith(("http:", "https:", "git@", "ssh:")):
        raise Unsupported("cannot build", str(path), "the context must be a directory here", "clone it first")
    if not path.is_dir():
        raise Usage("cannot build", str(path), "it is no directory")
    return path
