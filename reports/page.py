"""The page: chapters put into one self-contained HTML file, without network and without needing
JavaScript."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.sample import Sample
from reports import palette, units
from reports.appendix import appendix_sections, when
from reports.claimed import claims_sections
from reports.comparison import Set, comparison_section, sets
from reports.dimensions import mismatches
from reports.gathered import COLD, condition
from reports.play import play_section
from reports.practice import practice_section
from reports.sections import Section, results_sections
from reports.svg import Svg, standalone

if TYPE_CHECKING:
    import jinja2

_LONGEST_HEADING = 140
TEMPLATES = Path(__file__).parent / "templates"
FOOTER = (
    "Written by vmm. Every number on this page is computed from results.jsonl beside it; results.csv holds "
    "the same samples as a table. Repeat it with vmm bench run, rebuild the page with vmm report build."
)


@dataclass(frozen=True)
class Source:
    """What a page is made of: the samples, what their reader told, and where they came from."""

    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = ()
    campaign: dict[str, Any] | None = None
    file_sha256: str = "–"
    verdicts: tuple[dict[str, Any], ...] = ()
    name: str = "these results"
    others: tuple[tuple[str, tuple[Sample, ...]], ...] = ()


@dataclass(frozen=True)
class Page:
    """The page as the template shows it."""

    title: str
    kicker: str
    heading: str
    lead: str
    remarks: tuple[str, ...]
    sections: tuple[Section, ...]
    empty: str
    footer: str


def page(source: Source) -> Page:
    """The page of one results file, or of several: then ratios are compared, and the first is told in
    full."""
    compared = sets([("these results" if not source.others else source.name, source.samples), *source.others])
    samples = compared[0].samples if len(compared) > 1 else source.samples
    good = [sample for sample in samples if sample.status == "ok"]
    told = [comparison_section(compared), *(results_sections(samples) if good else []), play_section(samples)]
    chapters = [section for section in told if section] + claims_sections(source.verdicts)
    whole = [sample for one in compared for sample in one.samples]
    practice = practice_section({*(one.id for one in chapters), *(["cold"] if _has_cold(samples) else [])})
    chapters += [practice] if practice else []
    if whole:
        chapters += appendix_sections(whole, source.campaign or {}, source.file_sha256)
    return Page(
        title="A virtual machine and a container, side by side",
        kicker=_kicker(source.samples),
        heading=_heading(source),
        lead=_lead(source.samples),
        remarks=tuple(_remarks(source, compared)),
        sections=tuple(chapters),
        empty="This results file holds no samples yet. Run vmm bench run demo, then build this page again.",
        footer=FOOTER,
    )


def _has_cold(samples: Sequence[Sample]) -> bool:
    return any(condition(sample) == COLD and "warm_start_s" in sample.values for sample in samples)


def _kicker(samples: Sequence[Sample]) -> str:
    began = [sample.began_unix_s for sample in samples if sample.began_unix_s]
    return f"vmm · measured {when(min(began))}" if began else "vmm"


def _heading(source: Source) -> str:
    """The question of the campaign; of the demo, and of several campaigns, that of the product."""
    plan = (source.campaign or {}).get("plan")
    asked = plan.get("question") if isinstance(plan, dict) and plan.get("name") != "demo" else None
    if source.others or not isinstance(asked, str) or not 0 < len(asked) <= _LONGEST_HEADING:
        return "What does a virtual machine cost that a container does not?"
    return asked


def _started(samples: Sequence[Sample]) -> str:
    """What the samples say was started."""
    names = {sample.target for sample in samples} or {"process", "ct", "vm"}
    machines = {name for name in names if palette.is_machine(name)}
    kinds = ["processes"] if "process" in names else []
    kinds += ["containers"] if names - machines - {"process"} else []
    kinds += ["virtual machines"] if machines else []
    *first, last = (f"as {kind}" for kind in kinds)
    return f"The same images, started {', '.join(first)} and {last}" if first else f"Images, started {last}"


def _lead(samples: Sequence[Sample]) -> str:
    host = next((sample.host for sample in samples if sample.host), None)
    if host is None:
        return f"{_started(samples)}."
    memory = host.get("memory_bytes")
    told = [
        str(host.get("cpu_model") or "an unnamed processor"),
        f"{host['cores']} cores" if host.get("cores") else "",
        units.size(memory) if isinstance(memory, int | float) else "",
        f"Linux {host['kernel']}" if host.get("kernel") else "",
    ]
    where = ", ".join(word for word in told if word)
    return f"{_started(samples)} on one host: {where}."


def _remarks(source: Source, compared: Sequence[Set]) -> list[str]:
    remarks = []
    machines = [
        sample.accelerator for sample in source.samples if sample.accelerator and sample.status == "ok"
    ]
    if machines and set(machines) == {"tcg"}:
        remarks.append(
            "The machines here ran under TCG: QEMU translated every guest instruction, because this host "
            "offers no "
            "working hardware virtualisation. Their times and processor costs say what emulation costs. "
            "With KVM a "
            "machine starts several times faster; memory and disk change little."
        )
    if source.samples and not any(sample.status == "ok" for sample in source.samples):
        remarks.append("No run of this file succeeded. What went wrong stands below.")
    if len(compared) > 1:
        remarks.append(
            f"{len(compared)} sets of results are compared by ratios within each; the chapters after that "
            "tell the "
            f"first one, {compared[0].name}, in full."
        )
    return [*remarks, *mismatches(one for each in compared for one in each.samples), *source.notes]


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip


def style() -> str:
    """All rules of the page: its own and the inks'."""
    return (TEMPLATES / "style.css").read_text(encoding="utf-8") + palette.css_rules()


def render(made: Page) -> str:
    """The page as HTML; every word that came from a results file is escaped."""
    script = (TEMPLATES / "page.js").read_text(encoding="utf-8") if _moves(made) else ""
    return _environment().get_template("page.html.j2").render(page=made, style=style(), script=script)


def picture(made: Page) -> str:
    """The first figure of the page as an SVG file of its own, for a slide or a README; light and dark."""
    figures = (part.content for section in made.sections for part in section.parts if part.kind == "figure")
    first = next(figures, None)
    if first is None:
        empty = Svg(920, 60, "nothing measured")
        empty.text(20, 36, made.empty)
        return standalone(empty.render(), style())
    return standalone(first.wide, style())


def _moves(made: Page) -> bool:
    """True where a part of the page wants JavaScript; it holds no word of the results, so it runs nothing of
    theirs."""
    return any(part.kind == "slider" for section in made.sections for part in section.parts)
