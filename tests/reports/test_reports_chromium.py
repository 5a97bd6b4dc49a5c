"""The page in a real headless Chromium: drawn, silent, readable wide and narrow, dark and in print."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import synthetic_results as synthetic
from capabilities import AXE_CORE, need
from headless_chromium import Chromium

from bench.claims.book import judged
from bench.claims.book import write as write_verdicts
from bench.claims.register import register
from bench.core.sample import load
from reports.build import build

HOSTILE = "<img src=x onerror=\"console.error('pwned')\"><script>console.error('pwned')</script>"
# Every drawing that is shown: its box, how many marks it has, and the smallest text in it in real px.
DRAWINGS = """[...document.querySelectorAll('svg.drawing')].filter(s => s.getBoundingClientRect().width > 0)
  .map(s => ({width: s.getBoundingClientRect().width,
    marks: s.querySelectorAll('circle,path,rect,polyline').length,
    outside: [...s.querySelectorAll('text')].filter(t => t.getBoundingClientRect().right > innerWidth + 0.5
      || t.getBoundingClientRect().left < -0.5).map(t => t.textContent),
    text: Math.min(...[...s.querySelectorAll('text')].map(t => parseFloat(getComputedStyle(t).fontSize)
      * s.getBoundingClientRect().width / s.viewBox.baseVal.width))}))"""
CONTRAST = """(() => {
  const light = c => { const v = c.match(/[\\d.]+/g).slice(0, 3).map(x => x / 255)
    .map(x => x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4)
    return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2] }
  const paper = light(getComputedStyle(document.body).backgroundColor)
  const words = [...document.querySelectorAll('p, li, td, th, figcaption, h1, h2, h3, summary, dt, dd')]
  return Math.min(...words.map(e => { const l = light(getComputedStyle(e).color)
    return (Math.max(l, paper) + 0.05) / (Math.min(l, paper) + 0.05) })) })()"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    need("chromium")
    with Chromium(tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def demo_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All chapters: what a campaign of all claims leaves."""
    folder = tmp_path_factory.mktemp("demo")
    synthetic.write(folder, synthetic.demo())
    write_verdicts(folder, judged(register(), load(folder).samples))
    return build(folder, folder, ["html"])[0]


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 400])
def test_every_chart_is_drawn_and_readable(
    browser: Chromium, demo_page: Path, width: int, dark: bool
) -> None:
    browser.view(width, dark=dark)
    browser.open(demo_page)
    assert browser.complaints() == []
    assert browser.value("document.documentElement.scrollWidth") <= width
    drawings = browser.value(DRAWINGS)
    figures = browser.value("document.querySelectorAll('figure').length")
    assert len(drawings) == figures >= 10
    for drawing in drawings:
        assert drawing["marks"] >= 2
        assert drawing["text"] >= 11.5
        assert drawing["outside"] == []
    assert browser.value(CONTRAST) >= 4.5


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 400])
def test_axe_core_finds_nothing_serious(browser: Chromium, demo_page: Path, width: int, dark: bool) -> None:
    need("axe-core")
    browser.view(width, dark=dark)
    browser.open(demo_page)
    browser.value("document.querySelectorAll('details').forEach(one => { one.open = true })")
    browser.value(AXE_CORE.read_text(encoding="utf-8") + ";0")
    found = browser.value(
        "axe.run(document).then(told => told.violations.map(one => "
        "[one.impact, one.id, one.help, one.nodes.slice(0, 5).map(node => node.html)]))"
    )
    assert [one for one in found if one[0] in ("serious", "critical")] == []


@pytest.mark.parametrize("width", [720, 940])
def test_widths_in_between_do_not_overflow(browser: Chromium, demo_page: Path, width: int) -> None:
    browser.view(width)
    browser.open(demo_page)
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert all(drawing["text"] >= 8.5 for drawing in browser.value(DRAWINGS))


def test_the_page_works_without_javascript(browser: Chromium, demo_page: Path) -> None:
    browser.scripts(allowed=False)
    try:
        browser.view(1280)
        browser.open(demo_page)
        assert browser.complaints() == []
    finally:
        browser.scripts(allowed=True)
    assert len(browser.value(DRAWINGS)) >= 10


def test_hostile_names_run_nothing(browser: Chromium, tmp_path: Path) -> None:
    lines = [line | {"image": HOSTILE} for line in synthetic.demo(3)]
    lines.append(synthetic.sample(target=HOSTILE, status="failed", error=HOSTILE))
    lines += [synthetic.started(random.Random(1), HOSTILE, 1.0, image=HOSTILE, block=b) for b in range(3)]
    synthetic.write(tmp_path, lines)
    browser.view(400)
    browser.open(build(tmp_path, tmp_path, ["html"])[0])
    assert browser.complaints() == []
    assert "onerror" in browser.value("document.body.innerText")
    assert browser.value("document.images.length") == 0
    assert browser.value("document.documentElement.scrollWidth") <= 400


def test_print_has_pages_and_keeps_the_light_colours(
    browser: Chromium, demo_page: Path, tmp_path: Path
) -> None:
    browser.view(1280, dark=True, media="print")
    browser.open(demo_page)
    assert browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    browser.pdf(tmp_path / "page.pdf")
    assert (tmp_path / "page.pdf").read_bytes().count(b"/Type /Page\n") >= 4


def test_first_paint_comes_within_a_second(browser: Chromium, demo_page: Path) -> None:
    browser.view(1280)
    browser.open(demo_page)
    browser.call("Page.bringToFront")
    painted_ms = browser.value(
        "new Promise(done => new PerformanceObserver(list => done(list.getEntries()[0].startTime))"
        ".observe({type: 'paint', buffered: true}))"
    )
    assert painted_ms <= 1000
