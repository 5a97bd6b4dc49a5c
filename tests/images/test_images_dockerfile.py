"""The language of Dockerfiles: parsing, variables, patterns."""

from __future__ import annotations

from pathlib import Path

import pytest

from host.errors import BadData, Failure
from images import dockerfile, ignore, stages, variables

VALUES = {"A": "abc", "EMPTY": "", "P": "/usr/local/lib"}


@pytest.mark.parametrize(
    ("word", "result"),
    [
        ("$A", "abc"), ("${A}x", "abcx"), ("a$A$A", "aabcabc"), ("$NONE.", "."), ("${NONE:-d}", "d"),
        ("${EMPTY:-d}", "d"), ("${EMPTY-d}", ""), ("${A:-d}", "abc"), ("${A:+y}", "y"), ("${NONE:+y}", ""),
        ("${EMPTY:+y}", ""), ("${EMPTY+y}", "y"), ("'$A'", "$A"), ('"$A b"', "abc b"), (r"\$A", "$A"),
        (r"\\$A", "\\abc"), ("${P#*/}", "usr/local/lib"), ("${P##*/}", "lib"), ("${P%/*}", "/usr/local"),
        ("${P%%/*}", ""), ("${A/b/X}", "aXc"), (r"${P//\//-}", "-usr-local-lib"), ("${NONE:-${A}}", "abc"),
        ("${NONE:-'a b'}", "a b"), ("$", "$"), ("a$", "a$"), ('"a\\b"', "a\\b"), ('"\\""', '"'),
        ("${A:?no}", "abc"),
    ],
)  # fmt: skip
def test_variables_are_expanded_as_documented(word: str, result: str) -> None:
    assert variables.expand(word, VALUES) == result


@pytest.mark.parametrize("word", ["${", "${A", "${A^x}", "${NONE:?must be set}", "${}"])
def test_broken_variables_are_told(word: str) -> None:
    with pytest.raises(BadData):
        variables.expand(word, VALUES)


def test_words_keep_blanks_in_quotes() -> None:
    assert variables.split("a=1 b=\"x y\" c='z w' d=\\ e") == ["a=1", 'b="x y"', "c='z w'", "d=\\ e"]


def words(text: str) -> list[tuple[str, str]]:
    return [(one.word, one.rest) for one in dockerfile.parse(text)]


def test_comments_continued_lines_and_blank_lines() -> None:
    text = "# comment\n\nFROM a \\\n  AS b\nRUN one \\\n# inside\n\n  two \\  \n three\n  # end\n"
    assert words(text) == [("FROM", "a   AS b"), ("RUN", "one   two  three")]


def test_the_escape_directive() -> None:
    assert words("# escape=`\nFROM a\nRUN c:\\dir `\n two") == [("FROM", "a"), ("RUN", "c:\\dir  two")]
    assert words("# other\n# escape=`\nFROM a\nRUN a \\\n b")[1] == ("RUN", "a  b")


def test_exec_form_and_what_only_looks_like_it() -> None:
    one, two, three = dockerfile.parse('CMD ["a", "b c"]\nCMD [a, b]\nRUN ["a", 1]')
    assert one.exec_form == ("a", "b c")
    assert two.exec_form is None
    assert three.exec_form is None


def test_flags_come_before_the_words() -> None:
    (one,) = dockerfile.parse("COPY --from=x --chmod=755 --link a --not-a-flag b")
    assert one.flags == (("from", "x"), ("chmod", "755"), ("link", ""))
    assert one.rest == "a --not-a-flag b"


def test_here_documents() -> None:
    text = "RUN <<A cat && <<-'B' sh\nx $Y\nA\n\t\ty\n\tB\nCOPY <<C <<D /d/\n1\nC\n2\nD\nUSER x"
    run, copy, user = dockerfile.parse(text)
    assert [(d.name, d.content, d.expands) for d in run.heredocs] == [
        ("A", "x $Y\n", True),
        ("B", "y\n", False),
    ]
    assert [d.content for d in copy.heredocs] == ["1\n", "2\n"]
    assert user.word == "USER"


def test_what_is_no_here_document() -> None:
    assert dockerfile.parse("RUN echo $((1<<2)) a<<b")[0].heredocs == ()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("FROM a\nRUM x", 2),
        ("FROM a\nCOPY --form=b c d", 2),
        ("FROM a\n\nRUN <<EOF\nx\n", 3),
        ("FROM a\nWORKDIR", 2),
        ("# escape=x\nFROM a", 1),
    ],
)
def test_errors_name_the_line(text: str, line: int) -> None:
    with pytest.raises(BadData) as caught:
        dockerfile.parse(text)
    assert f"line {line}" in caught.value.on


def test_stages_take_arguments_from_before_the_first() -> None:
    text = "ARG BASE=x\nARG TAG=${BASE}1\nFROM ${BASE}:$TAG AS one\nRUN a\nFROM one\nRUN b\nFROM two as last"
    plan = stages.split(dockerfile.parse(text), {"BASE": "y"})
    assert [(s.base, s.name, len(s.instructions)) for s in plan.stages] == [
        ("y:y1", "one", 1), ("one", "", 1), ("two", "last", 0),
    ]  # fmt: skip
    assert plan.target("") == plan.stages[2]
    assert plan.target("ONE") == plan.stages[0]
    assert plan.target("1") == plan.stages[1]
    with pytest.raises(Failure, match="no build stage"):
        plan.target("none")


@pytest.mark.parametrize(
    "text", ["RUN x", "ARG A", "FROM a b", "FROM $NONE", "FROM --platform=linux/s390x a", "FROM a AS b c"]
)
def test_odd_stages_are_told(text: str) -> None:
    with pytest.raises(Failure):
        stages.split(dockerfile.parse(text), {})


@pytest.mark.parametrize(
    ("lines", "path", "out"),
    [
        (["*.md"], "a.md", True), (["*.md"], "d/a.md", False), (["**/*.md"], "d/e/a.md", True),
        (["**/*.md"], "a.md", True), (["d"], "d/e/f", True), (["/d/"], "d/e", True), (["d/*"], "d/e/f", True),
        (["*", "!keep"], "keep", False), (["*", "!keep"], "other", True), (["*", "!d/keep"], "d/keep", False),
        (["d", "!d/k", "d/k/x"], "d/k/x", True), (["d", "!d/k", "d/k/x"], "d/k/y", False),
        (["# c", ""], "# c", False),
        (["a?c"], "abc", True), (["a?c"], "a/c", False), (["[a-c]x"], "bx", True), (["[^a-c]x"], "bx", False),
        (["a\\*"], "a*", True), (["a\\*"], "ab", False), (["d/**"], "d/x/y", True), (["**"], "x", True),
        (["./a"], "a", True), (["a//b"], "a/b", True),
    ],
)  # fmt: skip
def test_dockerignore(lines: list[str], path: str, out: bool) -> None:
    assert ignore.Rules(lines).leaves_out(path) is out


def test_a_dockerfile_may_have_its_own_ignore_file(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("a\n")
    (tmp_path / "Other").write_text("")
    assert ignore.of_context(tmp_path, tmp_path / "Other").leaves_out("a")
    (tmp_path / "Other.dockerignore").write_text("b\n")
    rules = ignore.of_context(tmp_path, tmp_path / "Other")
    assert (rules.leaves_out("a"), rules.leaves_out("b")) == (False, True)
