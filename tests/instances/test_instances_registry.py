"""The registry: a name belongs to one, a lock to the living, and what killed commands left goes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from host import records
from host.errors import InUse, NotFound
from instances import registry, repair
from instances.registry import Instance


def made(name: str | None = None, rm: bool = False, kind: str = "ct") -> Instance:
    with registry.claim(name) as (identity, chosen, folder):
        instance = Instance(
            id=identity,
            name=chosen,
            kind=kind,
            image="tiny",
            image_digest="sha256:0",
            created_unix_s=registry.now_unix_s(),
            rm=rm,
            command=("true",),
            labels={},
            volumes=(),
            spec={"name": chosen, "lower_dirs": ["/nowhere"], "argv": ["true"]},
            folder=folder,
            run=registry.run_of(chosen),
        )
        registry.save(instance)
    return instance


def test_what_is_saved_is_loaded_again(home: Path) -> None:
    instance = made("web")
    assert registry.load("web") == instance


def test_a_name_is_given_once(home: Path) -> None:
    made("web")
    with pytest.raises(InUse), registry.claim("web"):
        pass


def test_a_failure_after_the_claim_frees_the_name(home: Path) -> None:
    with contextlib.suppress(ZeroDivisionError), registry.claim("web") as (_, _, folder):
        (folder / "disk.qcow2").write_bytes(b"x")
        raise ZeroDivisionError
    assert registry.folders() == []


def test_an_instance_is_found_by_name_and_by_the_start_of_its_id(home: Path) -> None:
    instance = made("web")
    assert registry.find("web") == instance
    assert registry.find(instance.id[:6]) == instance
    with pytest.raises(NotFound):
        registry.find("nobody")


def test_an_ambiguous_id_names_the_candidates(home: Path) -> None:
    one, two = made("one"), made("two")
    for instance in (one, two):
        registry.save(instance._replace(id="ab" + instance.id[2:]))
    with pytest.raises(InUse, match="one, two"):
        registry.find("ab")


def test_rename_keeps_the_id_and_moves_own_paths(home: Path) -> None:
    instance = made("web")
    registry.save(
        instance._replace(spec={**instance.spec, "disk": f"{instance.folder}/disk", "other": "/x/web/y"})
    )
    moved = registry.move(registry.load("web"), "shop")
    assert (moved.name, moved.id) == ("shop", instance.id)
    assert moved.spec["name"] == "shop"
    assert moved.spec["disk"] == f"{home}/instances/shop/disk"
    assert moved.spec["other"] == "/x/web/y"
    with pytest.raises(NotFound):
        registry.load("web")


def test_rename_never_takes_a_name(home: Path) -> None:
    one = made("one")
    two = made("two")
    with pytest.raises(InUse):
        registry.move(one, "two")
    assert registry.load("two").id == two.id
    assert registry.load("one").id == one.id


def test_a_half_made_folder_is_swept_once_its_maker_is_gone(home: Path) -> None:
    with registry.claim("half") as (_, _, folder):
        assert repair.sweep() == []
        assert folder.exists()
        (folder / "disk.qcow2").write_bytes(b"x")
        registry.save(made("whole"))
        os.unlink(registry.folder_of("whole") / registry.RECORD)
        assert repair.sweep() == ["half-made instance whole"]
        assert folder.exists()
        registry.remove_folder(folder)


def _claim_and_die(where: str, ready: multiprocessing.synchronize.Event) -> None:
    os.environ["VMM_HOME"] = where
    with registry.claim("victim"):
        ready.set()
        time.sleep(60)


def test_after_kill_9_of_the_maker_the_name_is_free(home: Path) -> None:
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    child = context.Process(target=_claim_and_die, args=(str(home), ready))
    child.start()
    assert ready.wait(30)
    assert repair.sweep() == []
    os.kill(child.pid or 0, signal.SIGKILL)
    child.join()
    with registry.claim("victim") as (_, name, _):
        assert name == "victim"


def test_an_abandoned_rm_instance_goes_and_an_owned_one_stays(home: Path) -> None:
    instance = made("gone", rm=True)
    with registry.owned(instance.folder):
        assert repair.sweep() == []
    made("kept", rm=False)
    assert repair.sweep() == ["abandoned instance gone"]
    assert [one.name for one in registry.every()] == ["kept"]


def test_two_claimers_at_once_get_two_names_or_one_refusal(home: Path) -> None:
    with registry.claim("web"), pytest.raises(InUse), registry.claim("web"):
        pass


def test_a_damaged_record_is_told_and_does_not_hide_the_others(home: Path) -> None:
    made("good")
    bad = made("bad")
    (bad.folder / registry.RECORD).write_text("{")
    assert [one.name for one in registry.every()] == ["good"]
    with pytest.raises(Exception, match="cannot read the record"):
        registry.load("bad")


def test_remove_folder_deletes_deep_trees_and_unreadable_ones(home: Path) -> None:
    instance = made("deep")
    deep = instance.folder / "upper" / "/".join("abcdefghij")
    deep.mkdir(parents=True)
    (deep / "file").write_text("x")
    (instance.folder / "work" / "work").mkdir(parents=True, mode=0)
    registry.remove_folder(instance.folder)
    assert not instance.folder.exists()


def test_temporary_files_of_dead_writers_go(home: Path) -> None:
    records.write(home / "x.json", {}) if home.exists() else home.mkdir()
    (home / ".x.json.999999999.tmp").write_text("half")
    (home / f".y.json.{os.getpid()}.tmp").write_text("at work")
    said = repair.repair()
    assert any("999999999" in line for line in said)
    assert (home / f".y.json.{os.getpid()}.tmp").exists()


def test_repair_puts_a_damaged_instance_aside_with_its_files(home: Path) -> None:
    bad = made("bad")
    (bad.folder / registry.RECORD).write_text("{")
    (bad.folder / "disk").write_text("worth something")
    assert any("bad" in line for line in repair.repair())
    assert registry.folders() == []
    assert [path.read_text() for path in home.glob("instances/.damaged-bad-*/disk")] == ["worth something"]
