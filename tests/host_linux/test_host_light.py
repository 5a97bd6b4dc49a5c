"""What the start does without the standard library's slower module must do the same."""

from __future__ import annotations

import collections
import copy
import json
import pickle
import re
import signal
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host import json_text, rawsignal
from host.errors import Usage
from host.typing import NamedTuple
from instances import names


class Ours(NamedTuple):
    """Three fields, one of them without default."""

    a: int
    b: str = "x"
    c: tuple[int, ...] = ()

    def sum(self) -> int:
        """A method of its own."""
        return self.a + len(self.b)

    @property
    def double(self) -> int:
        """And a property."""
        return 2 * self.a

    @classmethod
    def of(cls, word: str) -> Ours:
        """And another way to make one."""
        return cls(int(word))


Theirs = collections.namedtuple("Theirs", "a b c", defaults=("x", ()))

CALLS = [
    ((1,), {}),
    ((1, "y"), {}),
    ((1, "y", (2,)), {}),
    ((), {"a": 1}),
    ((1,), {"c": (3,)}),
    ((), {"c": (3,), "b": "z", "a": 0}),
]
WRONG = [
    ((), {}),
    ((), {"b": "y"}),
    ((1, "y", (), 4), {}),
    ((1,), {"a": 2}),
    ((1,), {"d": 2}),
    ((1, "y", ()), {"c": ()}),
    ((1, "y", ()), {"d": ()}),
]


@pytest.mark.parametrize(("values", "named"), CALLS)
def test_a_named_tuple_of_ours_is_made_and_read_as_collections_makes_them(values, named):
    ours, theirs = Ours(*values, **named), Theirs(*values, **named)
    assert ours == theirs == tuple(ours)
    assert hash(ours) == hash(theirs)
    assert (ours.a, ours.b, ours.c) == (theirs.a, theirs.b, theirs.c)
    assert ours._asdict() == theirs._asdict()
    assert [*ours._asdict()] == [*theirs._asdict()]
    assert repr(ours) == repr(theirs).replace("Theirs", "Ours")
    assert ours._replace(b="new") == theirs._replace(b="new")
    assert type(ours._replace()) is Ours
    assert Ours._make(ours) == ours
    assert not hasattr(ours, "__dict__")


@pytest.mark.parametrize(("values", "named"), WRONG)
def test_what_collections_refuses_ours_refuses(values, named):
    for kind in (Ours, Theirs):
        with pytest.raises(TypeError):
            kind(*values, **named)


def test_a_named_tuple_of_ours_has_its_methods_and_survives_the_wire():
    one = Ours(1, c=(2, 3))
    assert (one.sum(), one.double, Ours.of("7").a) == (2, 2, 7)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        back = pickle.loads(pickle.dumps(one, protocol))
        assert back == one
        assert type(back) is Ours
    assert type(copy.deepcopy(one)) is Ours
    assert copy.copy(one) == one
    match one:
        case Ours(a, b, c=(first, *_)):
            assert (a, b, first) == (1, "x", 2)
        case _:
            raise AssertionError(one)
    assert (Ours._fields, Ours._field_defaults) == (Theirs._fields, Theirs._field_defaults)
    assert Ours.__match_args__ == Theirs.__match_args__  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        one.a = 2  # type: ignore[misc]
    with pytest.raises((TypeError, ValueError)):
        one._replace(d=1)
    with pytest.raises(TypeError):
        Ours._make((1, 2, 3, 4))


def test_a_field_without_default_after_one_with_a_default_is_refused():
    with pytest.raises(TypeError, match="default"):
        type(NamedTuple)("Wrong", (NamedTuple,), {"__annotations__": {"a": "int", "b": "int"}, "a": 1})


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values, st.sampled_from([None, 1]))
def test_json_is_read_as_the_module_json_reads_it(value, indent):
    text = json.dumps(value, indent=indent)
    assert json_text.loads(text.encode()) == json.loads(text) == value
    assert json_text.loads(b" \n" + text.encode() + b" \n") == value


@given(st.binary(max_size=30) | st.text('{}[]",:1 \nanulltrue', max_size=12).map(str.encode))
def test_what_is_no_json_is_a_value_error_for_both(data):
    try:
        expected = json.loads(data.decode())
    except ValueError:
        with pytest.raises(ValueError, match=r"\w"):
            json_text.loads(data)
    else:
        assert json_text.loads(data) == expected or expected != expected


@given(st.text("aZ09_.-é²٣/ \n", max_size=70) | st.text(max_size=5))
def test_a_name_is_what_its_grammar_says(name):
    if re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,62}", name):
        assert names.check(name) == name
    else:
        with pytest.raises(Usage):
            names.check(name)


def test_signals_are_the_numbers_that_signal_has_and_no_enums():
    for name in ("SIGTERM", "SIGCHLD", "SIGKILL", "SIG_BLOCK", "SIG_SETMASK", "SIG_DFL", "NSIG"):
        assert getattr(rawsignal, name) == getattr(signal, name)
    if sys.implementation.name == "cpython":
        assert type(rawsignal.SIGTERM) is int
