"""The grammar of image names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from host.errors import Usage
from images import reference

DIGEST = "sha256:" + "a1" * 32


@pytest.mark.parametrize(
    ("text", "host", "path", "tag", "digest"),
    [
        ("tiny", "", "tiny", "latest", ""),
        ("debian:bookworm", "", "debian", "bookworm", ""),
        ("class/web-1.0:v1", "", "class/web-1.0", "v1", ""),
        ("localhost:5000/a/b:V_1.x-y", "localhost:5000", "a/b", "V_1.x-y", ""),
        ("localhost/a", "localhost", "a", "latest", ""),
        ("reg.example/a", "reg.example", "a", "latest", ""),
        ("[::1]:5000/a", "[::1]:5000", "a", "latest", ""),
        (f"tiny@{DIGEST}", "", "tiny", "", DIGEST),
        (f"h.io:1/tiny:t@{DIGEST}", "h.io:1", "tiny", "t", DIGEST),
    ],
)
def test_names_in_the_grammar_are_read(text: str, host: str, path: str, tag: str, digest: str) -> None:
    assert reference.parse(text) == reference.Reference(host, path, tag, digest)


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "tiny:", ":tag", "Tiny", "a//b", "/a", "a/", "a..b",
        "-a", "a-", "_a", "a___b", "../a", "a/../b",
        "a:b:c", "a:-x", "a:" + "x" * 129, "a@sha256:12", "a@sha512:" + "0" * 128,
        f"a@{DIGEST}x", "a b", "a\nb",
        "a:b\n", "http://h/a", "x" * 300, "h:port/a", "ä", f"@{DIGEST}",
    ],
)  # fmt: skip
def test_names_out_of_the_grammar_are_refused(text: str) -> None:
    with pytest.raises(Usage):
        reference.parse(text)


@given(st.text(max_size=60))
def test_what_is_read_is_read_the_same_again(text: str) -> None:
    try:
        read = reference.parse(text)
    except Usage:
        return
    assert reference.parse(str(read)) == read
