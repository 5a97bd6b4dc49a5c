"""The page, the summary and the table, from good, thin, old and hostile results."""

from __future__ import annotations

import csv
import io
import json
import random
import re
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
import synthetic_results as synthetic

from bench.core.sample import from_line
from host.errors import BadData, NotFound
from reports.build import build
from reports.page import TEMPLATES, Source, page

HOSTILE = "<script>alert(1)</script>\"' onload=x &amp; =cmd|calc"
ALL = ("html", "md", "csv")


def built(tmp_path: Path, lines: list[dict[str, object]]) -> str:
    synthetic.write(tmp_path, lines)
    build(tmp_path, tmp_path, ALL)
    return (tmp_path / "index.html").read_text()


class Elements(HTMLParser):
    """All tags and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def of(self, *tags: str) -> list[dict[str, str | None]]:
        return [attrs for tag, attrs in self.found if tag in tags]


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", html, flags=re.S)))


def test_the_page_opens_with_one_picture_and_five_sentences(tmp_path: Path) -> None:
    html = built(tmp_path, synthetic.demo())
    answer = html[html.index('id="the-answer"') : html.index('id="start-up"')]
    assert answer.count("<figure") == 1
    sentences = re.findall(r"<li>(.*?)</li>", answer, re.S)
    assert len(sentences) == 5
    assert all(re.search(r"\d", sentence) for sentence in sentences)


def test_one_ratio_is_told_whatever_part_of_the_page_tells_it(tmp_path: Path) -> None:
    """Of three blocks where the median of the ratios, 13x, is not the ratio of the medians, 15x."""
    lines = [
        synthetic.sample(
            target=target, block=block, order=block, edges_ns={"t0": 0, "t2": 10**6, "t8": at_s * 10**9}
        )
        for target, starts_s in (("ct", (1, 2, 3)), ("vm", (30, 10, 40)))
        for block, at_s in enumerate(starts_s)
    ]
    html = built(tmp_path, lines)
    assert "13×" in text_of(html)
    assert "15×" not in text_of(html)


def test_a_campaign_other_than_the_demo_is_headed_by_its_own_question(tmp_path: Path) -> None:
    def heading(question: object, name: str = "ladder", target: str = "rung-direct") -> str:
        line = synthetic.sample(target=target, edges_ns={"t0": 0, "t8": 2_000_000_000})
        (tmp_path / "campaign.json").write_text(json.dumps({"plan": {"name": name, "question": question}}))
        found = re.search(r"<header.*?</header>", built(tmp_path, [line]), re.S)
        assert found
        return text_of(found[0])

    assert "Where does a <boot> go?".replace("<", "&lt;").replace(">", "&gt;") in heading(
        "Where does a <boot> go?"
    )
    assert "containers" not in heading(
        "Where does a boot go?"
    )  # nor does the lead tell of what was not there
    for told in (heading("Why?", name="demo"), heading("x" * 500), heading(None), heading("")):
        assert "What does a virtual machine cost that a container does not?" in told


def test_the_ratio_of_the_answer_is_the_one_in_the_samples(tmp_path: Path) -> None:
    """With exact times (2 s and 10 ms in every block) the page must say 200 times."""
    lines = [
        synthetic.sample(target=target, block=block, order=block, edges_ns={"t0": 0, "t8": at})
        for block in range(5)
        for target, at in (("ct", 10_000_000), ("vm", 2_000_000_000))
    ]
    assert "200×" in text_of(built(tmp_path, lines))


def test_every_figure_has_alt_text_caption_table_and_both_widths(tmp_path: Path) -> None:
    html = built(tmp_path, synthetic.demo())
    figures = re.findall(r"<figure.*?</figure>", html, re.S)
    assert len(figures) >= 10
    for figure in figures:
        drawings = [attrs for attrs in Elements(figure).of("svg")]
        assert [drawing["role"] for drawing in drawings] == ["img", "img"]
        assert all(len(drawing["aria-label"] or "") > 30 for drawing in drawings)
        assert re.search(r"<figcaption>.*\bn = \d", figure, re.S), figure[:200]
        assert "<details>" in figure
        assert figure.count("<tr>") >= 2


def test_log_axes_say_so_and_every_axis_has_a_unit(tmp_path: Path) -> None:
    html = built(tmp_path, synthetic.demo())
    ecdf = html[html.index('id="ecdf-command-tiny"') :]
    ecdf = ecdf[: ecdf.index("</figure>")]
    assert "(log scale)" in ecdf
    assert re.findall(r'class="tick"[^>]*>\d+ (?:ms|s|µs)<', ecdf)


def test_boot_mode_and_command_mode_never_share_a_table(tmp_path: Path) -> None:
    html = built(tmp_path, synthetic.demo())
    boot = html[html.index("Medians: debian, boot mode") :]
    boot = boot[: boot.index("</table>")]
    assert "times vm" in boot
    assert ">ct<" not in boot
    assert "docker" not in boot


def test_tcg_is_marked_on_every_figure_that_shows_machine_times(tmp_path: Path) -> None:
    html = built(tmp_path, synthetic.demo())
    for name in ("answer", "ecdf-command-tiny", "timeline-boot-debian"):
        figure = html[html.index(f'<figure id="{name}"') :]
        assert "machines under TCG" in figure[: figure.index("</h3>")]
    lines = [line | {"accelerator": "kvm" if line["accelerator"] else None} for line in synthetic.demo()]
    assert "TCG" not in text_of(built(tmp_path / "kvm", lines)).replace("under TCG are about QEMU", "")


def test_two_accelerators_are_two_series(tmp_path: Path) -> None:
    rng = random.Random(1)
    lines = list(synthetic.starts(rng, "command", "tiny", {"ct": 0.01, "vm": 2.0}, 5))
    lines += [line | {"accelerator": "kvm"} for line in lines if line["target"] == "vm"]
    words = text_of(built(tmp_path, lines))
    assert "vm · KVM" in words
    assert "vm · TCG" in words


def test_what_was_skipped_or_failed_is_told_with_its_reason(tmp_path: Path) -> None:
    words = text_of(built(tmp_path, synthetic.demo()))
    assert "podman is not installed" in words
    assert "apt-get install podman" in words
    assert "no marker after 60 s" in words
    assert "docker run ended with 125" in words


def test_failures_keep_the_distribution_below_one(tmp_path: Path) -> None:
    """Survivor bias: a target with 5 of 10 runs failed must not reach 100 %."""
    good = [synthetic.started(random.Random(2), "ct", 0.01, block=i, order=i) for i in range(5)]
    bad = [synthetic.sample(status="timeout", block=i, order=i, error="late") for i in range(5, 10)]
    html = built(tmp_path, good + bad)
    curve = re.search(r'<path class="curve ink-ct" d="([^"]+)"', html)
    grid = re.findall(r'<line class="grid" x1="46" y1="([\d.]+)"', html)
    assert curve is not None
    highest = min(float(y) for y in re.findall(r"V([\d.]+)", curve[1]))
    half = float(grid[2])
    assert highest == pytest.approx(half, abs=0.2)


def test_hostile_names_become_text(tmp_path: Path) -> None:
    lines = []
    for line in synthetic.demo(3):
        lines.append(
            line | {"image": HOSTILE, "target": HOSTILE if line["target"] == "docker" else line["target"]}
        )
    lines.append(synthetic.sample(target=HOSTILE, status="failed", error=HOSTILE, hint=HOSTILE, cell=HOSTILE))
    lines.append(synthetic.sample(target=HOSTILE, status="skipped", error=HOSTILE, hint=HOSTILE))
    host = {**synthetic.HOST, "cpu_model": HOSTILE, HOSTILE: HOSTILE, "id": HOSTILE}
    lines = [line | {"host": host, "versions": {HOSTILE: HOSTILE}, "campaign": HOSTILE} for line in lines]
    odd = {
        "seed": HOSTILE,
        "groups": [{"experiment": HOSTILE, "targets": [HOSTILE], "params": [[HOSTILE, HOSTILE]]}],
    }
    told = {"command_line": [HOSTILE], "plan": odd, "facts": {HOSTILE: {HOSTILE: HOSTILE}}}
    (tmp_path / "campaign.json").write_text(json.dumps(told))
    html = built(tmp_path, lines)
    elements = Elements(html)
    assert "alert(1)" in text_of(html)
    ours = (TEMPLATES / "page.js").read_text()
    assert html.count("<script") == html.count("<script>\n" + ours) == 1
    assert not [attrs for _, attrs in elements.found if any(name.startswith("on") for name in attrs)]
    summary = (tmp_path / "summary.md").read_text().splitlines()
    live = [
        line for line in summary if not line.startswith("    ")
    ]  # an indented block is code: it runs nothing
    assert "<script" not in "\n".join(live).replace("\\<script", "")


def test_the_page_asks_for_nothing_from_the_network(tmp_path: Path) -> None:
    html = built(tmp_path, synthetic.demo())
    for _, attrs in Elements(html).found:
        for name in ("src", "href"):
            assert (attrs.get(name) or "#").startswith(("#", "data:"))
    assert "url(" not in html
    assert "@import" not in html


def test_the_heat_map_tells_ratios_to_the_process(tmp_path: Path) -> None:
    """Work that takes 1 s as a process, 1 s in a container and 30 s in a machine."""
    lines = [
        synthetic.sample(
            experiment="C37.work", mode="workload", target=target, block=block, values={"work_s": time_s}
        )
        for block in range(6)
        for target, time_s in (("process", 1.0), ("ct", 1.0), ("vm", 30.0))
    ]
    html = built(tmp_path, lines)
    heat = html[html.index('<figure id="heat"') :]
    heat = heat[: heat.index("</figure>")]
    assert "machines under TCG" in heat
    assert re.search(r'class="heat-words-1"[^>]*>1.00×<', heat)
    assert re.search(r'class="heat-words-6"[^>]*>30×<', heat)


def test_a_generators_rate_is_its_answer_and_each_work_a_row_of_its_own(tmp_path: Path) -> None:
    """fio works for a second everywhere; the machine does a tenth of the reads and all of the writes."""
    lines = [
        synthetic.sample(
            experiment="e14-disk-io", mode="workload", target=target, image="loads", block=block,
            values={"work_s": 1.0, "fio_ops_per_second": rate},
        ) | {"cell": f"e14-disk-io/workload/loads,work={work}/{target}"}
        for block in range(6)
        for target, work, rate in (("process", "read", 1e4), ("vm", "read", 1e3),
                                   ("process", "write", 1e4), ("vm", "write", 1e4))
    ]  # fmt: skip
    html = built(tmp_path, lines)
    heat = html[html.index('<figure id="heat"') :]
    rows = re.sub(r"<[^>]+>", " ", heat[heat.index("<tbody") : heat.index("</tbody>")])
    assert "e14-disk-io read fio ops per second vm · TCG 10×" in " ".join(rows.split())
    assert "e14-disk-io write fio ops per second vm · TCG 1.00×" in " ".join(rows.split())
    assert "work 1.00×" not in rows


def test_what_disturbed_the_runs_is_in_the_appendix(tmp_path: Path) -> None:
    lines = [
        synthetic.sample(mode="disk", block=block, values={"unique_bytes": 1.0}, warnings=["load"][:block])
        for block in range(2)
    ]
    html = built(tmp_path, lines)
    told = " ".join(re.sub(r"<[^>]+>", " ", html[html.index("What may have disturbed") :]).split())
    assert "1 of 2 load" in told


def test_two_pairs_bound_nothing_and_are_drawn_where_they_are(tmp_path: Path) -> None:
    lines = [
        synthetic.sample(mode="disk", target=target, block=block, values={"unique_bytes": size})
        for block in range(2)
        for target, size in (("ct", 1e4), ("vm", 1e6))
    ]
    html = built(tmp_path, lines)
    answer = html[html.index('<figure id="answer"') :]
    assert "100×" in answer[: answer.index("</figure>")]
    assert ">100×</text>" in answer[: answer.index("</svg>")].replace("big", "")
    ticks = re.findall(r">([0-9.]+)×</text>", answer[: answer.index("</svg>")])
    assert max(map(float, ticks[:-1])) >= 50  # the axis goes as far as the dot


def test_the_appendix_has_what_a_stranger_needs_to_repeat_it(tmp_path: Path) -> None:
    group = {"experiment": "start", "mode": "command", "image": "tiny", "targets": ["ct", "vm"], "runs": 10}
    group |= {"warmup": 1, "deadline_s": 60.0, "params": [["boot", "pvh"]]}
    facts = {"cpu": {"microcode": "0xd1ce", "flags": ["sse"]}, "memory": {"ksm_run": "0"}, "odd": None}
    told = {
        "plan": {"seed": 4711, "groups": [group]},
        "facts": facts,
        "command_line": ["vmm", "bench", "run"],
    }
    (tmp_path / "campaign.json").write_text(json.dumps(told))
    lines = [line | {"versions": {"image tiny": "sha256:beef"}} for line in synthetic.demo(3)]
    words = text_of(built(tmp_path, lines))
    for word in ("boot=pvh", "60.0 s", "4711", "vmm bench run", "cpu: microcode", "0xd1ce", "sha256:beef"):
        assert word in words
    assert "sse" not in words.split("The host in full")[1].split("Versions")[0]
    for broken in ("[]", '{"plan": 3, "facts": []}', '{"plan": {"groups": [1]}}', "{"):
        (tmp_path / "campaign.json").write_text(broken)
        assert "vm · TCG" in text_of(built(tmp_path, lines))


def test_an_empty_file_makes_a_page_that_says_so(tmp_path: Path) -> None:
    assert "holds no samples yet" in built(tmp_path, [])
    assert "holds no samples yet" in (tmp_path / "summary.md").read_text()


def test_one_sample_alone_makes_a_page(tmp_path: Path) -> None:
    words = text_of(built(tmp_path, [synthetic.started(random.Random(3), "vm", 2.0)]))
    assert "vm · TCG" in words
    assert not re.search(r"\bnan\b", words.lower())


def test_only_failures_make_a_page_that_says_so(tmp_path: Path) -> None:
    words = text_of(built(tmp_path, [synthetic.sample(status="failed", error="boom")]))
    assert "No run of this file succeeded" in words
    assert "boom" in words


def test_a_missing_target_costs_only_its_own_parts(tmp_path: Path) -> None:
    lines = [line for line in synthetic.demo() if line["target"] != "vm"]
    html = built(tmp_path, lines)
    assert 'id="ecdf-command-tiny"' in html
    assert 'id="answer"' not in html


def test_an_older_schema_is_read_and_told(tmp_path: Path) -> None:
    lines = [line | {"schema_version": 1} for line in synthetic.demo(3)]
    for line in lines:
        del line["warnings"]
    assert "schema [1]" in text_of(built(tmp_path, lines))


def test_another_unit_is_told_and_never_pooled(tmp_path: Path) -> None:
    """Numbers of two units beside each other would be a ratio of 1024 that nobody measured."""
    lines = synthetic.demo(3)
    for line in lines:
        if line["mode"] == "memory" and line["target"] == "vm" and "pss_bytes" in line["values"]:
            line["values"]["pss_kib"] = line["values"].pop("pss_bytes") / 1024
    words = text_of(built(tmp_path, lines))
    assert "The unit of “pss” differs between samples (pss_bytes and pss_kib)" in words
    assert "Memory, tiny" not in words
    assert "differs between samples" not in text_of(built(tmp_path / "clean", synthetic.demo(3)))


def test_a_file_of_a_newer_vmm_is_one_clear_error(tmp_path: Path) -> None:
    synthetic.write(tmp_path, [synthetic.sample(schema_version=999)])
    with pytest.raises(BadData, match="999"):
        build(tmp_path, tmp_path, ALL)


def test_no_results_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        build(tmp_path / "nowhere", tmp_path, ALL)


def test_zero_sizes_and_zero_bases_draw(tmp_path: Path) -> None:
    values = {"unique_bytes": 0, "allocated_bytes": 0, "apparent_bytes": 0}
    lines = [
        synthetic.sample(mode="disk", target=t, block=b, values=values) for t in ("ct", "vm") for b in (0, 1)
    ]
    assert "0 B" in text_of(built(tmp_path, lines))


def test_the_table_holds_every_sample_and_runs_no_formula(tmp_path: Path) -> None:
    lines = [*synthetic.demo(), synthetic.sample(target="=HYPERLINK(1)", error="+1+1", status="failed")]
    built(tmp_path, lines)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "results.csv").read_text())))
    assert len(rows) == len(lines)
    assert rows[-1]["target"] == "'=HYPERLINK(1)"
    assert rows[-1]["error"] == "'+1+1"
    start = next(row for row in rows if row["target"] == "vm" and row["mode"] == "command")
    assert int(start["t8_ns"]) > 1_000_000_000


def test_a_report_of_ten_thousand_samples_is_quick_and_light(tmp_path: Path) -> None:
    rng = random.Random(4)
    lines = list(synthetic.starts(rng, "command", "tiny", synthetic.TINY_S, 1000))
    lines += list(synthetic.starts(rng, "command", "debian", synthetic.DEBIAN_S, 430))
    assert len(lines) > 10_000
    synthetic.write(tmp_path, lines)
    began = time.process_time()
    build(tmp_path, tmp_path, ALL)
    assert time.process_time() - began < 10
    assert (tmp_path / "index.html").stat().st_size < 5_000_000


def test_the_same_samples_make_the_same_page() -> None:
    samples = tuple(from_line(line) for line in synthetic.demo(4))
    assert page(Source(samples)) == page(Source(samples))


def ramp(took_s: tuple[float, ...], each: float) -> list[dict[str, object]]:
    """Four readings of one target: N instances that take `each` bytes, half of it anonymous memory."""
    lines = []
    for block in range(4):
        for count, start_s in zip((1, 2, 4, 8), took_s, strict=True):
            drop = each * count * (1 + 0.001 * block)
            values = {"instances": count, "mem_available_drop_bytes": drop, "start_of_this_s": start_s}
            values |= {f"all_pss_{kind}_bytes": 0.0 for kind in ("shmem", "file")}
            values["all_pss_anon_bytes"] = drop / 2
            lines.append(synthetic.sample(mode="memory", target="ct", block=block, values=values))
    return lines


def test_density_is_told_from_the_readings(tmp_path: Path) -> None:
    """The k-th start, the kinds, and how many fit: numbers that a reader can recompute."""
    html = built(tmp_path, ramp((0.01, 0.02, 0.04, 0.08), 1 << 20))
    rows = re.findall(r"<tr><th scope=\"row\">ct</th>(.*?)</tr>", html[html.index('id="kth-memory-tiny"') :])
    assert [re.findall(r"<td>(.*?)</td>", row)[1] for row in rows[:4]] == [
        "10.0 ms",
        "20.0 ms",
        "40.0 ms",
        "80.0 ms",
    ]
    stack = html[html.index('id="stack-memory-tiny"') : html.index('id="kth-memory-tiny"')]
    last = re.findall(r"<td>(.*?)</td>", re.findall(r"<tr><th scope=\"row\">ct</th>(.*?)</tr>", stack)[3])
    assert last[1] == last[4] == "4.01 MiB"
    assert last[5] == "8.01 MiB"
    density = html[html.index('id="density-memory-tiny"') :]
    assert 7770 <= int(re.search(r"<td>(7,7\d\d)</td>", density)[1].replace(",", "")) <= 7790  # type: ignore[index]
    assert 'class="stripe"' in density


def test_a_slope_that_noise_hides_says_nothing_about_how_many_fit(tmp_path: Path) -> None:
    lines = ramp((0.01, 0.01, 0.01, 0.01), 1 << 20)
    for place, line in enumerate(lines):
        line["values"]["mem_available_drop_bytes"] = (-1) ** place * 5e7  # type: ignore[index]
    html = built(tmp_path, lines)
    assert 'id="density-memory-tiny"' not in html
    assert "below the noise" in html
