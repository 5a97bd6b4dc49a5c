"""Builds of Dockerfiles: RUN in real containers, layers, cache, and what goes wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from capabilities import need
from commandline import CommandLine

from host.errors import BadData, CommandFailed, Failure, NotFound
from images import bases, build, space
from images.build import Request
from images.merged import Merged
from images.store import Image, Store
from instances.build import run_step

Build = Callable[..., Image]


@pytest.fixture
def store(home: Path) -> Store:
    """The home's own store, with tiny."""
    need("root", "busybox", "cgroup", "overlay")
    store = Store(home)
    bases.build(store, "tiny")
    return store


@pytest.fixture
def context(tmp_path: Path) -> Path:
    path = tmp_path / "context"
    path.mkdir()
    return path


@pytest.fixture
def make(store: Store, context: Path, tmp_path: Path) -> Build:
    """Build a Dockerfile's text; what commands said is in tmp_path/said, the progress in make.lines."""

    def run(text: str, **options: object) -> Image:
        (context / "Dockerfile").write_text(text)
        options.setdefault("network", "none")
        lines: list[str] = []
        with (tmp_path / "said").open("ab") as said:
            request = Request(context=context, output=said.fileno(), **options)  # type: ignore[arg-type]
            image = build.build(store, request, run_step, progress=lines.append)
        run.lines = lines  # type: ignore[attr-defined]
        return image

    return run


def content(store: Store, image: Image, path: str) -> str:
    found = Merged(store.lower_dirs(image)).find(path)
    assert found is not None, path
    return found.path.read_text()


def shows(store: Store, image: Image, path: str) -> os.stat_result | None:
    found = Merged(store.lower_dirs(image)).find(path, follow_last=False)
    return found.status if found else None


class TestRun:
    def test_shell_exec_and_here_document(self, store: Store, make: Build) -> None:
        image = make(
            "FROM tiny\nRUN echo shell >/1\n"
            'RUN ["/bin/sh", "-c", "echo exec >/2"]\n'
            "RUN <<EOF\necho here >/3\nEOF\n"
            "RUN cat <<EOF >/4\nto $0\nEOF\n"
            'RUN <<EOF\n#!/usr/bin/awk -f\nBEGIN { print 6 * 7 > "/5" }\nEOF\n'
        )
        assert [content(store, image, f"/{n}") for n in range(1, 6)] == [
            "shell\n", "exec\n", "here\n", "to /bin/sh\n", "42\n",
        ]  # fmt: skip

    def test_it_runs_in_a_container_with_env_user_and_directory(self, store: Store, make: Build) -> None:
        image = make(
            "FROM tiny\nARG WHO=nobody\nENV GREETING=hello\nWORKDIR /tmp\nUSER $WHO\n"
            "RUN echo $GREETING $WHO $(id -u) $(pwd) $(hostname) $$ >out\n"
        )
        assert content(store, image, "/tmp/out") == "hello nobody 65534 /tmp build 1\n"

    def test_deletions_and_nothing_else_are_in_the_layer(self, store: Store, make: Build) -> None:
        image = make("FROM tiny\nRUN rm /etc/profile && rm -r /mnt && mkdir /mnt\n")
        with tarfile.open(store.blobs.path(store.stack(image.digest)[-1].digest)) as layer:
            assert sorted(layer.getnames()) == [
                "etc",
                "etc/.wh.profile",
                "mnt",
                "mnt/.wh..wh..opq",
            ] or sorted(layer.getnames()) == ["etc", "etc/.wh.profile", "mnt"]
        assert shows(store, image, "/etc/profile") is None

    def test_an_image_without_any_directory_gets_none_from_its_run(self, store: Store, make: Build) -> None:
        image = make(
            "FROM tiny AS a\nFROM scratch\nCOPY --from=a /bin/busybox /busybox\n"
            'RUN ["/busybox", "touch", "/f"]\n'
        )
        assert Merged(store.lower_dirs(image)).names(()) == ["busybox", "f"]

    def test_a_failing_command_ends_the_build_and_leaves_nothing(self, store: Store, make: Build) -> None:
        with pytest.raises(CommandFailed, match="exit 7") as caught:
            make("FROM tiny\nRUN echo before >/f\nRUN exit 7\n")
        assert "line 3" in str(caught.value)
        assert caught.value.status == 7
        assert os.listdir(store.staging) == []
        assert [image.name for image in store.images()] == ["tiny:latest"]

    def test_mounts(self, store: Store, make: Build, context: Path, tmp_path: Path) -> None:
        (context / "data").write_text("from the context")
        (tmp_path / "token").write_text("s3cret")
        text = (
            "FROM tiny AS a\nRUN echo staged >/x\nFROM tiny\n"
            "RUN --mount=type=bind,target=/ctx --mount=type=bind,from=a,source=/x,target=/staged "
            "--mount=type=cache,target=/cache --mount=type=tmpfs,target=/scratch "
            "--mount=type=secret,id=token cat /ctx/data /staged /run/secrets/token >/out; "
            "echo run >>/cache/count; cp /cache/count /count; touch /scratch/f; ! touch /ctx/f\n"
        )
        image = make(text, secrets={"token": tmp_path / "token"})
        assert content(store, image, "/out") == "from the contextstaged\ns3cret"
        assert shows(store, image, "/ctx") is None
        assert shows(store, image, "/run/secrets/token") is None
        assert not (context / "f").exists()
        again = make(text, secrets={"token": tmp_path / "token"}, no_cache=True)
        assert content(store, again, "/count") == "run\nrun\n"

    def test_the_networks_none_has_only_loopback(self, store: Store, make: Build) -> None:
        image = make("FROM tiny\nRUN --network=none ls /sys/class/net >/out\n")
        assert content(store, image, "/out") == "lo\n"


class TestCopy:
    def test_files_directories_patterns_and_renames(self, store: Store, make: Build, context: Path) -> None:
        for name in ("a.txt", "b.txt", "d/e/f", "skip.md", "keep.md"):
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            (context / name).write_text(name)
        (context / ".dockerignore").write_text("*.md\n!keep.md\nDockerfile\n")
        (context / "link").symlink_to("a.txt")
        image = make(
            "FROM scratch\nWORKDIR /w\nCOPY a.txt renamed\nCOPY a.txt b.txt sub/\nCOPY *.txt /p/\nCOPY d /d\n"
            'COPY . /all\nCOPY link /linked\nCOPY ["b.txt", "/with blank"]\nCOPY --exclude=e d /x/\n'
        )
        tree = Merged(store.lower_dirs(image))
        assert tree.names(("w",)) == ["renamed", "sub"]
        assert tree.names(("w", "sub")) == ["a.txt", "b.txt"]
        assert tree.names(("p",)) == ["a.txt", "b.txt"]
        assert content(store, image, "/d/e/f") == "d/e/f"
        assert tree.names(("all",)) == [".dockerignore", "a.txt", "b.txt", "d", "keep.md", "link"]
        assert content(store, image, "/linked") == "a.txt"
        assert content(store, image, "/with blank") == "b.txt"
        assert tree.names(("x",)) == []

    def test_what_a_stage_deleted_deletes_nothing_elsewhere(self, store: Store, make: Build) -> None:
        image = make(
            "FROM tiny AS a\nRUN mkdir -p /d/e && touch /d/old\nRUN rm -r /d && mkdir /d && touch /d/new\n"
            "FROM tiny\nRUN mkdir /d && touch /d/mine\nCOPY --from=a /d /d\n"
        )
        assert Merged(store.lower_dirs(image)).names(("d",)) == ["mine", "new"]

    def test_owner_and_mode(self, store: Store, make: Build, context: Path) -> None:
        (context / "f").write_text("f")
        os.chown(context / "f", 1234, 1234)
        image = make(
            "FROM tiny\nCOPY f /plain\nCOPY --chown=nobody f /named\n"
            "COPY --chown=5:6 --chmod=4750 f /numbers\n"
        )
        found = [shows(store, image, path) for path in ("/plain", "/named", "/numbers")]
        assert [(s.st_uid, s.st_gid) for s in found if s] == [(0, 0), (65534, 65534), (5, 6)]
        assert found[2] is not None
        assert found[2].st_mode & 0o7777 == 0o4750

    def test_through_a_link_of_the_image_and_never_out_of_it(
        self, store: Store, make: Build, context: Path, tmp_path: Path
    ) -> None:
        (context / "f").write_text("f")
        image = make(f"FROM tiny\nRUN mkdir -p /real && ln -s /real /alias && ln -s {tmp_path} /out\n"
                     "COPY f /alias/f\nCOPY f /out/planted\n")  # fmt: skip
        assert content(store, image, "/real/f") == "f"
        status = shows(store, image, "/alias")
        assert status is not None
        assert status.st_mode & 0o170000 == 0o120000
        assert not (tmp_path / "planted").exists()

    def test_a_link_in_the_context_cannot_reach_out(self, make: Build, context: Path) -> None:
        (context / "passwd").symlink_to("/etc/passwd")
        with pytest.raises(NotFound):
            make("FROM tiny\nCOPY passwd /p\n")
        with pytest.raises(NotFound):
            make("FROM tiny\nCOPY ../../../../etc/passwd /p\n")

    def test_parents_keep_what_the_image_gave_them(self, store: Store, make: Build, context: Path) -> None:
        (context / "f").write_text("f")
        image = make("FROM tiny\nCOPY f /tmp/f\nCOPY f /root/f\n")
        modes = [s.st_mode & 0o7777 for p in ("/tmp", "/root") if (s := shows(store, image, p))]
        assert modes == [0o1777, 0o700]

    def test_add_unpacks_archives_and_copy_does_not(self, store: Store, make: Build, context: Path) -> None:
        (context / "in").mkdir()
        (context / "in/f").write_text("packed")
        for name, flag in (("a.tgz", "z"), ("a.txz", "J"), ("a.tar", "")):
            subprocess.run(["tar", f"c{flag}f", context / name, "-C", context, "in"], check=True)
        image = make("FROM scratch\nADD a.tgz /1/\nADD a.txz /2\nADD a.tar /3/\nCOPY a.tar /4/\n")
        assert [content(store, image, f"/{n}/in/f") for n in (1, 2, 3)] == ["packed"] * 3
        assert Merged(store.lower_dirs(image)).names(("4",)) == ["a.tar"]

    def test_here_documents_are_files(self, store: Store, make: Build) -> None:
        image = make(
            "FROM tiny\nARG V=1\nCOPY <<a <<'b' /d/\nv=$V\na\nv=$V\nb\nCOPY --chmod=755 <<x /run.sh\nhi\nx\n"
        )
        assert (content(store, image, "/d/a"), content(store, image, "/d/b")) == ("v=1\n", "v=$V\n")
        status = shows(store, image, "/run.sh")
        assert status is not None
        assert status.st_mode & 0o777 == 0o755

    @pytest.mark.parametrize(
        ("line", "why"),
        [
            ("COPY none /", "not in the source"),
            ("COPY n* /", "nothing in the source"),
            ("COPY f", "source and a destination"),
            ("COPY f Dockerfile /one", "several sources"),
            ("COPY f /etc/passwd/x", "not a directory"),
            ("COPY --chown=nosuch f /", "none of that name"),
            ("COPY --chmod=rwx f /", "no octal mode"),
            ("COPY --from=nosuch f /", "nosuch"),
        ],
    )
    def test_mistakes_are_told_with_their_line(self, make: Build, context: Path, line: str, why: str) -> None:
        (context / "f").write_text("f")
        with pytest.raises(Failure) as caught:
            make(f"FROM tiny\n{line}\n")
        assert why in str(caught.value)
        assert "line 2" in str(caught.value)


class TestConfig:
    def test_every_instruction_that_configures(self, store: Store, make: Build) -> None:
        image = make(
            'FROM tiny\nARG PORT=80\nENV A=1 B="two words" C=$A\nENV OLD form of it\n'
            "LABEL x=y \"a b\"='c d'\n"
            'EXPOSE $PORT 53/udp 90-91\nVOLUME /v ["/w"]\nVOLUME ["/x y"]\nUSER 5:6\nSTOPSIGNAL INT\n'
            'SHELL ["/bin/ash", "-ec"]\nENTRYPOINT echo $A\nCMD ["x"]\nMAINTAINER me\n'
            "HEALTHCHECK --interval=1m30s --timeout=2s --retries=4 CMD test -e /\n"
            "ONBUILD RUN echo child >/child\n"
        )
        config = image.config
        assert config.env[1:] == ("A=1", "B=two words", "C=", "OLD=form of it")
        assert config.labels == {"x": "y", "a b": "c d"}
        assert config.exposed == ("53/udp", "80/tcp", "90/tcp", "91/tcp")
        assert "/x y" in config.volumes
        assert (config.user, config.stop_signal) == ("5:6", "INT")
        assert config.entrypoint == ("/bin/ash", "-ec", "echo $A")
        assert config.cmd == ("x",)
        assert config.healthcheck is not None
        assert config.healthcheck.test == ("CMD-SHELL", "test -e /")
        assert (config.healthcheck.interval_ns, config.healthcheck.retries) == (90 * 10**9, 4)
        assert config.onbuild == ("RUN echo child >/child",)
        assert store.document(image.digest)["author"] == "me"

    def test_onbuild_runs_in_the_child_only(self, store: Store, make: Build) -> None:
        parent = make("FROM tiny\nONBUILD RUN echo child >/child\n", names=("parent",))
        assert shows(store, parent, "/child") is None
        child = make("FROM parent\nUSER 1\n")
        assert content(store, child, "/child") == "child\n"
        assert child.config.onbuild == ()

    def test_an_entrypoint_takes_the_bases_cmd_away(self, make: Build) -> None:
        assert make('FROM tiny\nENTRYPOINT ["e"]\n').config.cmd == ()
        assert make('FROM tiny\nCMD ["c"]\nENTRYPOINT ["e"]\n').config.cmd == ("c",)

    def test_arguments(self, store: Store, make: Build) -> None:
        text = "ARG G=g\nFROM tiny\nARG G\nARG A=default\nARG N\nRUN echo $G $A $N $TARGETARCH >/out\n"
        assert content(store, make(text), "/out") == "g default\n"
        image = make(text, arguments={"A": "given", "N": "n", "G": "G"})
        assert content(store, image, "/out") == "G given n\n"
        env = make("FROM tiny\nENV A=env\nARG A=arg\nRUN echo $A >/out\n", arguments={"A": "x"})
        assert content(store, env, "/out") == "env\n"

    @pytest.mark.parametrize(
        "line",
        ["EXPOSE 70000", "EXPOSE x", "STOPSIGNAL NOSUCH", "SHELL /bin/sh", "HEALTHCHECK SOMETIMES", "ENV A",
         "HEALTHCHECK --interval=5 CMD x", "ONBUILD FROM x", "LABEL a=1 b", "ENV A=${"],
    )  # fmt: skip
    def test_mistakes_are_told_with_their_line(self, make: Build, line: str) -> None:
        with pytest.raises(BadData, match="line 2"):
            make(f"FROM tiny\n{line}\n")


class TestCache:
    TEXT = "FROM tiny\nRUN date +%N >/stamp\nCOPY f /f\nRUN cat /f /stamp >/both\n"

    def test_nothing_changed_nothing_done(self, make: Build, context: Path) -> None:
        (context / "f").write_text("1")
        first = make(self.TEXT)
        assert make(self.TEXT).digest == first.digest
        assert sum("cached" in line for line in make.lines) == 3  # type: ignore[attr-defined]

    def test_a_touched_file_changes_nothing_its_content_does(
        self, store: Store, make: Build, context: Path
    ) -> None:
        (context / "f").write_text("1")
        first = make(self.TEXT)
        os.utime(context / "f", (1, 1))
        assert make(self.TEXT).digest == first.digest
        (context / "f").write_text("2")
        second = make(self.TEXT)
        assert second.layers[:2] == first.layers[:2]
        assert second.layers[2:] != first.layers[2:]
        assert content(store, second, "/both").startswith("2")

    def test_arguments_and_environment_count(self, store: Store, make: Build) -> None:
        text = "FROM tiny\nARG A\nRUN echo $A >/out\n"
        assert content(store, make(text, arguments={"A": "1"}), "/out") == "1\n"
        assert content(store, make(text, arguments={"A": "2"}), "/out") == "2\n"

    def test_no_cache_does_all_again(self, make: Build, context: Path) -> None:
        (context / "f").write_text("1")
        assert make(self.TEXT).layers[1] != make(self.TEXT, no_cache=True).layers[1]

    def test_source_date_epoch_gives_the_same_digest_in_another_store(
        self, store: Store, make: Build, context: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
        (context / "f").write_text("1")
        text = "FROM tiny\nWORKDIR /w\nRUN mkdir d && echo a >d/a && ln d/a b\nCOPY . /c/\nLABEL a=b\n"
        first = make(text)
        other = Store(tmp_path / "other")
        bases.build(other, "tiny")
        os.utime(context / "f", (1800000000, 1800000000))
        second = build.build(other, Request(context=context, output=1, network="none"), run_step)
        assert second.digest == first.digest

    def test_stages_that_nobody_needs_are_not_built(self, store: Store, make: Build) -> None:
        text = "FROM tiny AS bad\nRUN exit 1\nFROM tiny AS good\nRUN echo g >/g\n"
        text += "FROM scratch\nCOPY --from=good /g /\n"
        assert content(store, make(text), "/g") == "g\n"
        assert len(make(text, target="good").layers) == 2

    def test_what_is_built_is_sound(self, store: Store, make: Build, context: Path) -> None:
        (context / "f").write_text("1")
        make(self.TEXT, names=("a:1", "a:2"))
        assert list(space.verify(store)) == []
        assert {image.name for image in store.images()} == {"a:1", "a:2", "tiny:latest"}


def test_the_command_line_builds_and_runs(home: Path, context: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VMM_NETWORK", "none")
    need("root", "busybox", "cgroup", "overlay")
    (context / "Dockerfile").write_text('FROM tiny\nARG W\nENV W=$W\nENTRYPOINT ["echo"]\nCMD ["nobody"]\n')
    vmm = [sys.executable, "-m", "cli.main"]

    def run(*words: str | Path) -> str:
        return subprocess.run([*vmm, *words], capture_output=True, text=True, check=True).stdout

    digest = run("image", "build", "-q", "-t", "greet:1", "--build-arg", "W=world", context).strip()
    assert run("run", "--ct", "--rm", "greet:1") == "nobody\n"
    told = json.loads(run("image", "inspect", "greet:1"))
    assert told["schema_version"] == 1
    assert told["images"][0]["digest"] == digest
    assert "W=world" in told["images"][0]["config"]["config"]["Env"]


def test_many_layers_and_a_volume(home: Path, store: Store, make: Build) -> None:
    """Filling a volume, and copying out of what does not run, mounts the layers by fsconfig(2)."""
    image = make("FROM tiny\n" + "".join(f"COPY <<E /v/{n}\nline {n}\nE\n" for n in range(6)) + "VOLUME /v\n")
    store.tag(image.digest, "many:1")
    vmm = CommandLine(home)
    vmm.ok("create", "--ct", "--name", "c", "--network", "none", "many:1", "cat", "/v/5")
    try:
        assert vmm.ok("start", "-a", "c") == "line 5\n"
        vmm.ok("cp", "c:/v/0", str(home / "out"))
        assert (home / "out").read_text() == "line 0\n"
    finally:
        vmm.ok("rm", "-f", "c")
