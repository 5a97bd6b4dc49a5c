"""The notebook, the comparison of several results, the exercises, and the claims chapter."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import synthetic_results as synthetic
from capabilities import need
from headless_chromium import Chromium

from bench.claims.book import judged
from bench.claims.book import write as write_verdicts
from bench.claims.register import register
from bench.core.sample import from_line, load
from bench.core.stats import median_interval, ratio_interval
from cli import main as front
from reports import exercises
from reports.build import build
from reports.gathered import groups

HOSTILE = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    synthetic.write(folder, synthetic.demo())
    return folder


def scaled(lines: list[dict[str, object]], factor: float, host: str) -> list[dict[str, object]]:
    """The same results on a host on which everything takes so many times as long."""
    made = []
    for line in lines:
        edges = {edge: int(at * factor) for edge, at in line["edges_ns"].items()}  # type: ignore[attr-defined]
        made.append(line | {"edges_ns": edges, "host": {**synthetic.HOST, "id": host}})
    return made


def test_the_notebook_runs_and_finds_the_same_medians(demo: Path, tmp_path: Path) -> None:
    """Every code cell in a fresh Python, beside the raw samples; the page's median must appear in its
    output."""
    path = build(demo, demo, ["ipynb"])[0]
    cells = json.loads(path.read_text())["cells"]
    code = "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    script = "import matplotlib\nmatplotlib.use('Agg')\n" + code
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=demo, capture_output=True, text=True, timeout=120, check=False
    )
    assert ran.returncode == 0, ran.stderr
    good = [one for one in load(demo).samples if one.status == "ok" and not one.warmup]
    times = [
        one.edges_ns["t8"] / 1e9
        for one in good
        if (one.target, one.image, one.mode, one.experiment) == ("vm", "tiny", "command", "start")
    ]
    assert f"vm           n={len(times):<4} {median_interval(times).estimate:.6f} s" in ran.stdout
    assert "MiB an instance" in ran.stdout


def test_two_hosts_are_compared_by_ratio_and_never_pooled(demo: Path, tmp_path: Path) -> None:
    """A host that is ten times slower has the same ratio; pooled raw times would give another one."""
    slow = synthetic.write(tmp_path / "slow", scaled(synthetic.demo(), 10, "slow-host")).parent
    path = build([demo, slow], tmp_path / "out", ["html"])[0]
    html = path.read_text()
    figure = html[html.index('id="across"') :]
    rows = re.findall(r"<tr><th scope=\"row\">start, tiny: vm / ct</th>(.*?)</tr>", figure)
    ratios = [re.findall(r"<td>([^<]*)</td>", row)[2] for row in rows]
    assert len(ratios) == 2
    assert ratios[0] == ratios[1]
    assert "2 sets of results are compared" in html


def test_several_hosts_in_one_file_are_told_apart(tmp_path: Path) -> None:
    lines = [*synthetic.demo(6), *scaled(synthetic.demo(6), 10, "slow-host")]
    html = build(synthetic.write(tmp_path, lines), tmp_path, ["html"])[0].read_text()
    assert "2 sets of results are compared" in html
    assert "on slow-host" in html


def test_a_warm_and_a_cold_set_stand_side_by_side(tmp_path: Path) -> None:
    lines = synthetic.demo(6)
    cold = [line for line in lines if line["experiment"] == "cold-start"]
    warm = [line for line in lines if line["experiment"] == "start"]
    sets = [
        synthetic.write(tmp_path / name, found).parent for name, found in (("warm", warm), ("cold", cold))
    ]
    html = build(sets, tmp_path / "out", ["html"])[0].read_text()
    figure = html[html.index('id="across"') :]
    assert len(re.findall(r"<tr><th scope=\"row\">start, tiny: vm / ct</th>", figure)) == 2


def test_before_and_after_on_one_host_are_two_sets(demo: Path, tmp_path: Path) -> None:
    faster = [
        line | {"edges_ns": {edge: at // 2 for edge, at in line["edges_ns"].items()}}
        if line["target"] == "vm"
        else line
        for line in synthetic.demo()
    ]
    after = synthetic.write(tmp_path / "after", faster).parent
    html = build([demo, after], tmp_path / "out", ["html", "csv"])[0].read_text()
    figure = html[html.index('id="across"') :]
    rows = re.findall(r"<tr><th scope=\"row\">start, tiny: vm / ct</th>(.*?)</tr>", figure)
    first, second = (float(re.findall(r"<td>([^<]*)</td>", row)[2].rstrip("×")) for row in rows)
    assert second == pytest.approx(first / 2, rel=0.1)


def test_each_exercise_really_has_its_flaw() -> None:
    """What a naive reader computes, and what the answer says, both follow from the data."""
    found = {one.name: exercises.samples(one) for one in exercises.EXERCISES}

    def times(name: str, target: str) -> list[float]:
        return [
            one.edges_ns["t8"] / 1e9 for one in found[name] if one.target == target and one.status == "ok"
        ]

    naive = median_interval(times("drift", "bwrap")).estimate / median_interval(times("drift", "ct")).estimate
    assert naive > 1.15
    docker, ct = times("survivors", "docker"), times("survivors", "ct")
    assert median_interval(docker).estimate < median_interval(ct).estimate
    assert sum(one.status == "timeout" for one in found["survivors"]) >= 5
    cold = sorted(times("cache", "docker"))
    assert cold[-1] > 4 * cold[0]
    pairs = list(zip(times("co-tenant", "runc"), times("co-tenant", "ct"), strict=True))
    assert ratio_interval(pairs).low > 2
    assert sum(runc / ct < 1.3 for runc, ct in pairs) >= 5


def test_exercises_and_answers_are_files_of_their_own(tmp_path: Path) -> None:
    paths = exercises.write(tmp_path)
    before = [path.read_bytes() for path in paths]
    assert [path.read_bytes() for path in exercises.write(tmp_path)] == before
    questions = (tmp_path / "exercises.md").read_text()
    for one in exercises.EXERCISES:
        assert one.question in questions
        assert one.answer not in questions
        assert build(tmp_path / one.name, tmp_path / one.name, ["html"])[0].exists()


@pytest.fixture(scope="module")
def claimed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("claimed")
    synthetic.write(folder, synthetic.demo())
    write_verdicts(folder, judged(register(), load(folder).samples))
    return folder


def test_every_claim_has_a_card_whose_verdict_is_hidden_at_first(claimed: Path) -> None:
    html = build(claimed, claimed, ["html"])[0].read_text()
    cards = re.findall(r'<article class="card" id="(C\d+)"(.*?)</article>', html, re.S)
    assert [name for name, _ in cards] == [f"C{number}" for number in range(1, 68)]
    for _, card in cards:
        shown = card[: card.index("<details>")]
        assert not re.search(r"confirmed|refuted|qualified|undecided", shown)
    assert html.count('class="chip verdict') >= 67
    assert 'id="forest"' in html


def test_hostile_verdicts_become_text(claimed: Path, tmp_path: Path) -> None:
    synthetic.write(tmp_path, synthetic.demo(3))
    text = (claimed / "verdicts.json").read_text()
    (tmp_path / "verdicts.json").write_text(text.replace("A virtual machine takes minutes to start", HOSTILE))
    html = build(tmp_path, tmp_path, ["html"])[0].read_text()
    assert HOSTILE not in html
    assert "&lt;script&gt;alert(1)" in html


def test_a_broken_verdicts_file_costs_only_its_chapter(tmp_path: Path) -> None:
    synthetic.write(tmp_path, synthetic.demo(3))
    for text in ("", "[]", '{"verdicts": 3}', '{"verdicts": [1, {}]}'):
        (tmp_path / "verdicts.json").write_text(text)
        html = build(tmp_path, tmp_path, ["html"])[0].read_text()
        assert 'id="cards"' not in html
        assert 'id="start-up"' in html


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    need("chromium")
    with Chromium(tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


def test_a_slider_points_into_its_table(browser: Chromium, claimed: Path) -> None:
    browser.view(1280)
    browser.open(build(claimed, claimed, ["html"])[0])
    assert browser.complaints() == []
    moved = browser.value(
        "(() => { const box = document.querySelector('#end-command-tiny');"
        "const range = box.querySelector('input');"
        "range.value = '0'; range.dispatchEvent(new Event('input'));"
        "return [box.querySelector('output').textContent, box.querySelector('tr.here th').textContent] })()"
    )
    assert "t2" in moved[0]
    assert moved[1].startswith("t2")
    assert browser.value("document.querySelectorAll('tr.extrapolated').length") >= 5


def test_cold_and_warm_are_a_toggle(browser: Chromium, claimed: Path) -> None:
    """Pressed, it points at the other row; the table is there without it."""
    browser.view(1280)
    browser.open(build(claimed, claimed, ["html"])[0])
    told = browser.value(
        "(() => { const box = document.querySelector('#cache-command-tiny-cold-cache');"
        "const say = () => ['output', 'tr.here th', '[aria-pressed=true]']"
        ".map(which => box.querySelector(which).textContent);"
        "const before = say(); box.querySelectorAll('button')[1].click(); return [before, say()] })()"
    )
    assert [one[2] for one in told] == ["warm", "cold"]
    assert [one[1].split(":")[0] for one in told] == ["warm", "cold"]
    assert told[0][0] != told[1][0]


def test_starts_under_two_conditions_are_never_one_series(demo: Path) -> None:
    """A cold start is slower for another reason: pooled with warm ones it would move their median."""
    found = groups(load(demo).samples, ["command"])
    cold = next(one for one in found if one.condition == "cold cache")
    warm = next(one for one in found if one.image == "tiny" and not one.condition)
    assert {one.experiment for series in warm.series for one in series.samples} == {"start"}
    assert {one.experiment for series in cold.series for one in series.samples} == {"cold-start"}
    ladder = [
        from_line(synthetic.sample(experiment="e1", cell=f"e1/command/tiny,boot={rung}/vm", target="vm"))
        for rung in ("pvh", "direct")
    ]
    assert [one.subject for one in groups(ladder, ["command"])] == ["tiny (boot=direct)", "tiny (boot=pvh)"]


def test_the_answer_alone_is_a_picture_in_light_and_dark(
    browser: Chromium, demo: Path, tmp_path: Path
) -> None:
    path = build(demo, tmp_path, ["svg"])[0]
    seen = []
    for dark in (False, True):
        browser.view(1000, dark=dark)
        browser.open(path)
        assert browser.complaints() == []
        seen.append(browser.value("getComputedStyle(document.querySelector('text.subject')).fill"))
    assert seen[0] != seen[1]
    empty = synthetic.write(tmp_path / "empty", [])
    assert "no samples yet" in build(empty, tmp_path, ["svg"])[0].read_text()


def test_the_pdf_is_the_page_printed(demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    need("chromium")
    assert front.main(["report", "build", str(demo), "--format", "pdf", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/report.pdf\n"
    data = (tmp_path / "report.pdf").read_bytes()
    assert data.startswith(b"%PDF")
    assert data.count(b"/Type /Page\n") >= 4
    assert [path.name for path in tmp_path.iterdir()] == ["report.pdf"]


def test_without_a_browser_nothing_is_printed_and_that_is_told(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert front.main(["report", "build", str(demo), "--format", "pdf", "--out", str(tmp_path / "out")]) == 1
    told = capsys.readouterr().err
    assert "chromium" in told
    assert "hint:" in told
    assert not (tmp_path / "out").exists()


def test_a_browser_that_fails_leaves_no_half_a_pdf(
    demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\necho no display >&2\nexit 7\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    out = tmp_path / "out"
    assert front.main(["report", "build", str(demo), "--format", "pdf", "--out", str(out)]) == 1
    assert "no display" in capsys.readouterr().err
    assert list(out.iterdir()) == []


@pytest.mark.parametrize("width", [1280, 400])
def test_the_claims_are_readable(browser: Chromium, claimed: Path, width: int) -> None:
    browser.view(width)
    browser.open(build(claimed, claimed, ["html"])[0])
    assert browser.complaints() == []
    browser.value("document.querySelectorAll('details').forEach(one => { one.open = true })")
    assert browser.value("document.documentElement.scrollWidth") <= width
    unnamed = browser.value(
        "[...document.querySelectorAll('a, summary, input, [role=region]')].filter(e => "
        "!(e.textContent.trim()"
        " || e.getAttribute('aria-label') || e.labels?.length)).length"
    )
    assert unnamed == 0
    twice = browser.value(
        "(() => { const ids = [...document.querySelectorAll('[id]')].map(e => e.id);"
        "return ids.filter((id, i) => ids.indexOf(id) !== i) })()"
    )
    assert twice == []


def test_random_garbage_in_values_never_breaks_the_page(tmp_path: Path) -> None:
    rng = random.Random(9)
    lines = []
    for place in range(60):
        values = {
            f"v{place % 7}_bytes": rng.choice([0, -1, 1e300, 1e-300]),
            "instances": rng.choice([0, 1, 5]),
        }
        values["mem_available_drop_bytes"] = rng.choice([-1e9, 0, 1e12])
        values["pss_bytes"] = rng.choice([0, 1e15, -5])
        edges = {edge: rng.choice([0, 1, 10**18]) for edge in rng.sample(["t0", "t2", "t6", "t8", "t9"], 3)}
        mode = rng.choice(["command", "boot", "memory", "disk", "workload"])
        lines.append(synthetic.sample(mode=mode, values=values, edges_ns=edges, block=place, order=place))
    html = build(synthetic.write(tmp_path, lines), tmp_path, ["html", "md", "csv"])[0].read_text()
    assert "</html>" in html
