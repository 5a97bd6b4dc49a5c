"""One stage while it is built: its configuration, its layers, and what instructions do to them."""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from host.errors import BadData, Failure
from images import stages, variables
from images.cache import key
from images.config import Healthcheck, ImageConfig
from images.dockerfile import Instruction, broken
from images.layers import Layer
from images.store import now_unix_s, rfc3339

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_SHELL = ("/bin/sh", "-c")


@dataclass
class Stage:
    """The state of a stage; `step` is the cache's key of all that was done so far."""

    plan: stages.StagePlan
    given: Mapping[str, str]
    outer: Mapping[str, str]
    config: ImageConfig = field(default_factory=ImageConfig)
    layers: list[Layer] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    created: str = ""
    author: str = ""
    step: str = ""
    arguments: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    own_cmd: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """The image's variables, which win over arguments of the same name."""
        return {name: value for name, _, value in (word.partition("=") for word in self.config.env)}

    @property
    def variables(self) -> dict[str, str]:
        """All that an instruction may expand."""
        return {**self.arguments, **self.environment}

    @property
    def shell(self) -> tuple[str, ...]:
        """The shell of shell-form commands."""
        return self.config.shell or _SHELL

    def expand(self, text: str, one: Instruction) -> str:
        """A word with its variables replaced; the error names the line."""
        try:
            return variables.expand(text, self.variables, one.escape)
        except BadData as error:
            raise broken(one.line, error.why) from None

    def words(self, one: Instruction) -> list[str]:
        """The expanded words of an instruction, in either form."""
        given = one.exec_form if one.exec_form is not None else one.rest.split()
        return [self.expand(word, one) for word in given]

    def remember(self, one: Instruction, empty: bool, created: str = "", text: str = "") -> None:
        """Enter an instruction into the history and the key."""
        self.created = created or self.created or rfc3339(now_unix_s())
        told: dict[str, Any] = {"created": self.created, "created_by": text or str(one)}
        if self.author:
            told["author"] = self.author
        self.history.append({**told, "empty_layer": True} if empty else told)

    # instructions that change the configuration only

    def configure(self, one: Instruction) -> None:
        """Obey an instruction that makes no layer."""
        _CONFIGURING[one.word](self, one)
        self.step = key(self.step, one.word, one.rest, [list(f) for f in one.flags], sorted(self.config.env))
        self.remember(one, empty=True)

    def arg(self, one: Instruction) -> None:
        """ARG: a name of --build-arg, or a default."""
        found = stages.declared(one, self.given, {**self.outer, **self.variables})
        self.arguments.update(found)
        self.used.update(found)

    def env(self, one: Instruction) -> None:
        """ENV: NAME=value words, or one NAME and the rest of the line."""
        pairs, now = self._pairs(one), self.environment
        now.update(pairs)
        self.config = self.config._replace(env=tuple(f"{name}={value}" for name, value in now.items()))

    def label(self, one: Instruction) -> None:
        """LABEL: as ENV."""
        self.config = self.config._replace(labels={**self.config.labels, **self._pairs(one)})

    def _pairs(self, one: Instruction) -> dict[str, str]:
        words = variables.split(one.rest, one.escape)
        if "=" not in words[0]:
            if len(words) < 2:
                raise broken(one.line, f"{one.word} needs NAME=value")
            value = one.rest.split(None, 1)[1]
            return {self.expand(words[0], one): self.expand(value, one)}
        pairs = {}
        for word in words:
            name, equals, value = word.partition("=")
            if not equals or not name:
                raise broken(one.line, f"{word!r} is not NAME=value", "quote values that hold blanks")
            pairs[self.expand(name, one)] = self.expand(value, one)
        return pairs

    def cmd(self, one: Instruction) -> None:
        """CMD, in exec or shell form."""
        self.config, self.own_cmd = self.config._replace(cmd=self.command(one)), True

    def entrypoint(self, one: Instruction) -> None:
        """ENTRYPOINT; it takes away a CMD that the base had for its own entrypoint."""
        cmd = self.config.cmd if self.own_cmd else ()
        self.config = self.config._replace(entrypoint=self.command(one), cmd=cmd)

    def command(self, one: Instruction) -> tuple[str, ...]:
        """The words of a command: as they are, or the shell and the line."""
        if one.exec_form is not None:
            return one.exec_form
        return (*self.shell, one.rest) if one.rest else ()

    def expose(self, one: Instruction) -> None:
        """EXPOSE: ports and ranges, with /tcp or /udp."""
        ports = set(self.config.exposed)
        for word in self.words(one):
            match = re.fullmatch(r"(\d+)(?:-(\d+))?(?:/(tcp|udp|sctp))?", word.lower())
            if not match or not 0 < int(match[1]) <= int(match[2] or match[1]) <= 65535:
                raise broken(one.line, f"{word!r} is no port", "write 80, 80/udp or 8000-8010")
            numbers = range(int(match[1]), int(match[2] or match[1]) + 1)
            ports.update(f"{number}/{match[3] or 'tcp'}" for number in numbers)
        self.config = self.config._replace(exposed=tuple(sorted(ports)))

    def volume(self, one: Instruction) -> None:
        """VOLUME: paths."""
        paths = {*self.config.volumes, *self.words(one)}
        if "" in paths:
            raise broken(one.line, "a volume needs a path")
        self.config = self.config._replace(volumes=tuple(sorted(paths)))

    def user(self, one: Instruction) -> None:
        """USER."""
        self.config = self.config._replace(user=self.expand(one.rest, one))

    def stop_signal(self, one: Instruction) -> None:
        """STOPSIGNAL: a name or a number."""
        import signal

        word = self.expand(one.rest, one)
        name = word.upper() if word.upper().startswith("SIG") else f"SIG{word.upper()}"
        real_time = re.fullmatch(r"SIGRTM(IN\+|AX-)\d+", name)
        if not (word.isdigit() or name in signal.Signals.__members__ or real_time):
            raise broken(one.line, f"{word!r} is no signal")
        self.config = self.config._replace(stop_signal=word)

    def set_shell(self, one: Instruction) -> None:
        """SHELL: always a JSON list."""
        if not one.exec_form:
            raise broken(one.line, "SHELL needs a JSON list", 'as in SHELL ["/bin/bash", "-c"]')
        self.config = self.config._replace(shell=one.exec_form)

    def health(self, one: Instruction) -> None:
        """HEALTHCHECK NONE, or CMD with its flags."""
        word, _, rest = one.rest.partition(" ")
        if word.upper() == "NONE":
            self.config = self.config._replace(healthcheck=Healthcheck(("NONE",)))
            return
        if word.upper() != "CMD" or not rest.strip():
            raise broken(one.line, f"HEALTHCHECK {word}", "it is NONE or CMD and a command")
        test = _exec_words(rest.strip())
        retries = one.flag("retries") or "0"
        if not retries.isdigit():
            raise broken(one.line, f"--retries={retries} is no number")
        times = [_duration_ns(one, name) for name in ("interval", "timeout", "start-period")]
        words = ("CMD", *test) if test else ("CMD-SHELL", rest.strip())
        self.config = self.config._replace(
            healthcheck=Healthcheck(words, times[0], times[1], times[2], int(retries))
        )

    def onbuild(self, one: Instruction) -> None:
        """ONBUILD: kept for who builds on this image."""
        word = one.rest.split(None, 1)[0].upper()
        if word in ("ONBUILD", "FROM", "MAINTAINER"):
            raise broken(one.line, f"ONBUILD {word} is not allowed")
        docs = "".join(f"\n{doc.content}{doc.name}" for doc in one.heredocs)
        self.config = self.config._replace(onbuild=(*self.config.onbuild, one.rest + docs))

    def maintainer(self, one: Instruction) -> None:
        """MAINTAINER: the author."""
        self.author = one.rest

    def at(self, path: str) -> str:
        """A path as seen from the working directory."""
        return posixpath.normpath(posixpath.join(self.config.workdir or "/", path)) + (
            "/" if path.endswith("/") or path.endswith("/.") or path == "." else ""
        )

    def key_arguments(self) -> dict[str, str]:
        """The arguments that decide what a RUN does."""
        return {name: self.arguments[name] for name in sorted(self.used) if name not in stages.PREDEFINED}


_CONFIGURING: dict[str, Callable[[Stage, Instruction], None]] = {
    "ARG": Stage.arg,
    "ENV": Stage.env,
    "LABEL": Stage.label,
    "CMD": Stage.cmd,
    "ENTRYPOINT": Stage.entrypoint,
    "EXPOSE": Stage.expose,
    "VOLUME": Stage.volume,
    "USER": Stage.user,
    "STOPSIGNAL": Stage.stop_signal,
    "SHELL": Stage.set_shell,
    "HEALTHCHECK": Stage.health,
    "ONBUILD": Stage.onbuild,
    "MAINTAINER": Stage.maintainer,
}


def _exec_words(text: str) -> tuple[str, ...]:
    try:
        words = json.loads(text) if text.startswith("[") else None
    except ValueError:
        return ()
    return tuple(words) if isinstance(words, list) and all(isinstance(w, str) for w in words) else ()


def _duration_ns(one: Instruction, name: str) -> int:
    text = one.flag(name)
    if text is None:
        return 0
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise broken(one.line, f"--{name}={text} is no length of time", "write it as 30s or 1m30s")
    return int(sum(float(number) * _NS[unit] for number, unit in parts))


def located(one: Instruction, error: Failure) -> Failure:
    """The error with the line of the instruction that it happened in."""
    if "Dockerfile line" not in error.on:
        error.on = f"{error.on} (Dockerfile line {one.line})".strip()
    return error
