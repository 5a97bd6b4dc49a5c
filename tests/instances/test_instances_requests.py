"""The words of `vmm run`: read as docker reads them, and no flag silently ignored."""

from __future__ import annotations

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli import run
from host.errors import Unsupported, Usage
from instances import requests
from instances.requests import Port, RunRequest, Volume


def parsed(*words: str) -> RunRequest:
    parser = argparse.ArgumentParser(prog="vmm run", allow_abbrev=False)
    parser.set_defaults(command="run")
    run.configure(parser)
    return run.request(parser.parse_args(list(words)))


def test_words_after_the_image_belong_to_the_command() -> None:
    made = parsed("--rm", "-e", "A=1", "tiny", "ls", "-la", "--rm", "-d")
    assert made.command == ("ls", "-la", "--rm", "-d")
    assert made.rm
    assert not made.detach
    assert made.env == (("A", "1"),)


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("8080:80", (Port(8080, 80),)),
        ("80", (Port(0, 80),)),
        ("0.0.0.0:8080:80", (Port(8080, 80, "tcp", "0.0.0.0"),)),
        ("53:53/udp", (Port(53, 53, "udp"),)),
        ("127.0.0.1::80", (Port(0, 80),)),
        ("8000-8001:80-81", (Port(8000, 80), Port(8001, 81))),
        ("[::1]:8080:80", (Port(8080, 80, "tcp", "::1"),)),
    ],
)
def test_a_port_is_read(text: str, ports: tuple[Port, ...]) -> None:
    assert requests.parse_port(text) == ports


@pytest.mark.parametrize(
    "text", ["", "a:b", "0:80:1:2", "80:0", "1:65536", "80/icmp", "8000-8001:80", "-1:80", "1:٣", "9-8:9-8"]
)
def test_what_is_no_port_is_refused(text: str) -> None:
    with pytest.raises(Usage):
        requests.parse_port(text)


@given(st.text(max_size=30))
def test_no_text_makes_the_readers_fail_otherwise_than_by_usage(text: str) -> None:
    for read in (requests.parse_port, requests.parse_volume):
        try:
            read(text)
        except Usage:
            continue


def test_volumes_name_folders_or_volumes() -> None:
    assert requests.parse_volume("/a:/b") == Volume("/a", "/b")
    with pytest.raises(Usage, match="has no slash") as told:
        requests.parse_volume("sub/folder:/b")  # docker's users write folders like this one
    assert "./sub/folder" in told.value.hint
    assert requests.parse_volume("data:/b:ro") == Volume("data", "/b", read_only=True)
    assert requests.parse_volume("data:/b:U,ro") == Volume("data", "/b", read_only=True, chown=True)


def test_mounts_are_read_in_dockers_words() -> None:
    read = requests.parse_mount
    assert read("type=bind,src=/a,dst=/b,ro") == Volume("/a", "/b", read_only=True)
    assert read("type=bind,source=/a,target=/b,bind-propagation=rslave") == Volume(
        "/a", "/b", propagation="slave"
    )
    assert read("source=data,destination=/b") == Volume("data", "/b")
    assert read("type=volume,dst=/b") == Volume("", "/b")
    assert read("type=tmpfs,dst=/b,tmpfs-size=1m,tmpfs-mode=700") == "/b:size=1m,mode=700"
    assert requests.parse_volume("/a:/b:ro,rshared") == Volume("/a", "/b", True, propagation="shared")
    far = "type=bind,src=/a,dst=/b,bind-propagation=far"
    for text in ("type=bind,src=a,dst=/b", "type=nfs,dst=/b", "src=a", "dst=/b,color=red", far):
        with pytest.raises(Usage):
            read(text)


@pytest.mark.parametrize("text", ["/a:b", ":/b", "/a:/b:rx", "a/b:/c", "/a:/b:ro:x"])
def test_what_is_no_volume_is_refused(text: str) -> None:
    with pytest.raises(Usage):
        requests.parse_volume(text)


def test_a_bare_variable_passes_ours_on_or_is_left_out() -> None:
    assert requests.parse_env(["A", "B", "C=", "D=x=y"], {"A": "1"}) == (("A", "1"), ("C", ""), ("D", "x=y"))


_VALUES: dict[str, object] = {"restart": "always"}


def _value(field: str) -> object:
    plain = getattr(RunRequest(image="x"), field)
    if field in _VALUES:
        return _VALUES[field]
    return True if plain is False else ("x",) if plain == () else 1 if plain is None else "x"


@pytest.mark.parametrize("field", sorted(requests._MACHINE_ONLY))
def test_a_machines_flag_on_a_container_is_an_error_with_an_alternative(field: str) -> None:
    with pytest.raises(Unsupported, match="is not for a container") as told:
        requests.check(RunRequest(image="x", kind="ct")._replace(**{field: _value(field)}))
    assert told.value.hint


@pytest.mark.parametrize("field", sorted(requests._CONTAINER_ONLY))
def test_a_containers_flag_on_a_machine_is_an_error_with_an_alternative(field: str) -> None:
    with pytest.raises(Unsupported, match="is not for a machine") as told:
        requests.check(RunRequest(image="x", kind="vm")._replace(**{field: _value(field)}))
    assert told.value.hint


def test_every_flag_of_run_reaches_the_request() -> None:
    """A flag that is parsed and then forgotten would be silently ignored."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.set_defaults(command="run")
    run.configure(parser)
    ours = {"help", "dry_run", "image", "arguments", "detach_keys", "verbose"}

    def requested(*words: str) -> RunRequest:
        return run.request(parser.parse_args([*words, "tiny"]))._replace(kind="ct")

    for action in parser._actions:
        if action.dest in ours or action.dest == "kind":
            continue
        words = ["--vm"] if action in _machine_actions(parser) else ["--ct"]
        words += ["--from", "t"] if action.dest == "keep_identity" else []
        assert requested(*words, action.option_strings[-1], *_words_of(action)) != requested(*words), (
            action.dest
        )


def _machine_actions(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    group = next(group for group in parser._action_groups if group.title == "machines only")
    return group._group_actions


_WORDS = {
    "write_file": "motd:/etc/motd",
    "memory": "64M", "cpus": "2", "env": "A=1", "env_file": "/dev/null", "label": "a=b", "volume": "/a:/b",
    "publish": "80:80", "disk": "1G", "pids_limit": "5", "memory_swap": "1G", "cpu_shares": "5",
    "health_interval": "3", "health_timeout": "1m", "health_start_period": "500ms", "oom_score_adj": "5",
    "mount": "type=bind,src=/a,dst=/b",
    "blkio_weight": "5", "time_offset": "1h", "health_retries": "3", "sysctl": "a=b", "shm_size": "1M",
    "restart": "always",
}  # fmt: skip


def _words_of(action: argparse.Action) -> list[str]:
    if action.nargs == 0:
        return []
    if action.dest == "env_file":
        import os
        import tempfile

        fd, path = tempfile.mkstemp()
        os.write(fd, b"# a comment\nA=1\n")
        os.close(fd)
        return [path]
    return [_WORDS.get(action.dest, str(next(iter(action.choices or ["x"]))))]


@pytest.mark.parametrize("text", ["0", "-1", "x", "nan", "1e9"])
def test_a_bad_number_of_processors_is_told(text: str) -> None:
    with pytest.raises(Usage):
        parsed(f"--cpus={text}", "tiny")


def test_rm_and_restart_do_not_go_together() -> None:
    with pytest.raises(Usage):
        parsed("--rm", "--restart", "always", "tiny")
