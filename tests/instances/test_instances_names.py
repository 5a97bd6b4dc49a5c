"""Names of instances: what is one, and what is made up."""

from __future__ import annotations

import pytest

from host.errors import Usage
from instances import names


@pytest.mark.parametrize("name", ["a", "web-1", "Web_2.x", "0", "a" * 63])
def test_a_name_is_taken_as_it_is(name: str) -> None:
    assert names.check(name) == name


@pytest.mark.parametrize("name", ["", "-a", ".hidden", "a/b", "a b", "ä", "a" * 64, "..", "a\n"])
def test_what_could_leave_the_folder_or_break_a_cgroup_is_no_name(name: str) -> None:
    with pytest.raises(Usage):
        names.check(name)


def test_made_up_names_are_names_and_follow_the_id() -> None:
    identity = names.new_id()
    name = names.made_up(identity, set())
    assert names.check(name) == name
    assert name == names.made_up(identity, set())


def test_a_made_up_name_that_is_taken_gets_a_number() -> None:
    identity = names.new_id()
    name = names.made_up(identity, set())
    other = names.made_up(identity, {name})
    assert other.startswith(name)
    assert other != name
    assert names.check(other)


def test_ids_are_64_hex_digits_and_differ() -> None:
    ids = {names.new_id() for _ in range(100)}
    assert len(ids) == 100
    assert all(len(one) == 64 and int(one, 16) >= 0 for one in ids)
