"""The parts of figures: scales, labels, numbers in words, colours."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import palette, scales, units
from reports.figures.figure import stagger
from reports.svg import Svg, text_width


@pytest.mark.parametrize(
    ("value_s", "words"),
    [
        (0.0000004, "400 ns"),
        (0.000412, "412 µs"),
        (0.0123, "12.3 ms"),
        (1.5, "1.50 s"),
        (123.4, "123 s"),
        (0, "0 ns"),
    ],
)
def test_durations_are_written_with_their_unit(value_s: float, words: str) -> None:
    assert units.seconds(value_s) == words


@pytest.mark.parametrize(
    ("value_bytes", "words"),
    [(0, "0 B"), (512, "512 B"), (24576, "24.0 KiB"), (146 << 20, "146 MiB"), (2 << 30, "2.00 GiB")],
)
def test_sizes_are_written_in_powers_of_1024(value_bytes: float, words: str) -> None:
    assert units.size(value_bytes) == words


@given(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9), st.floats(1e-9, 1e9))
def test_a_log_scale_keeps_order_and_stays_inside(a: float, b: float, c: float) -> None:
    scale = scales.log_scale([a, b, c], 50, 900)
    for one, other in itertools.pairwise(sorted([a, b, c])):
        assert 50 <= scale(one) <= scale(other) <= 900


@given(st.lists(st.tuples(st.floats(0, 900), st.text("abcdefgh ", max_size=24)), max_size=14))
def test_labels_never_overlap_and_never_leave_the_drawing(labels: list[tuple[float, str]]) -> None:
    placed = stagger(labels, 4, 916)
    boxes = [
        (one.row, one.x, one.x + text_width(words)) for one, (_, words) in zip(placed, labels, strict=True)
    ]
    for row, left, right in boxes:
        assert left >= 4
        assert right <= 916 + 1e-6
        others = [box for box in boxes if box[0] == row and box != (row, left, right)]
        assert all(right <= start or end <= left for _, start, end in others)


@given(st.floats(1e-3, 1e12), st.integers(2, 12))
def test_linear_ticks_are_few_and_inside(high: float, at_most: int) -> None:
    ticks = scales.linear_ticks(scales.linear_scale(high, 0, 100), at_most)
    assert 1 <= len(ticks) <= at_most + 2
    assert ticks[0] == 0
    assert ticks[-1] <= high * 1.000001


def test_text_in_a_drawing_is_escaped() -> None:
    svg = Svg(100, 50, alt='<b> & "quoted"')
    svg.text(1, 1, "<script>")
    svg.circle(1, 1, 2, "dot", tip="<script>")
    assert "<script>" not in svg.render()
    assert 'aria-label="&lt;b&gt; &amp; &quot;quoted&quot;"' in svg.render()


# Machado, Oliveira and Fernandes 2009, severity 1.0, on linear RGB.
SIGHTS = {
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.01182, 0.04294, 0.968881),
    ),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.3039),
    ),
}


def seen(colour: str, sight: str | None) -> tuple[float, float, float]:
    """CIE L*a*b* of a colour as that kind of sight sees it."""
    linear = [(int(colour[i : i + 2], 16) / 255) ** 2.2 for i in (1, 3, 5)]
    if sight:
        linear = [max(sum(m * v for m, v in zip(row, linear, strict=True)), 0) for row in SIGHTS[sight]]
    r, g, b = linear
    xyz = (
        0.4124 * r + 0.3576 * g + 0.1805 * b,
        0.2126 * r + 0.7152 * g + 0.0722 * b,
        0.0193 * r + 0.1192 * g + 0.9505 * b,
    )
    fx, fy, fz = (
        (v / w) ** (1 / 3) if v / w > 0.008856 else 7.787 * v / w + 16 / 116
        for v, w in zip(xyz, (0.9505, 1.0, 1.089), strict=True)
    )
    return (116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz))


@pytest.mark.parametrize("sight", [None, *SIGHTS])
@pytest.mark.parametrize("shade", ["light", "dark"])
def test_the_main_targets_differ_for_every_kind_of_sight(sight: str | None, shade: str) -> None:
    main = [palette.ink(name) for name in ("process", "ct", "vm", "vm-libvirt", "docker")]
    for one, other in itertools.combinations(main, 2):
        distance = math.dist(seen(getattr(one, shade), sight), seen(getattr(other, shade), sight))
        assert distance > 11 or one.dash != other.dash, (one.css, other.css, distance)
    machine, container = palette.ink("vm"), palette.ink("ct")
    assert math.dist(seen(getattr(machine, shade), sight), seen(getattr(container, shade), sight)) > 35


@pytest.mark.parametrize("sight", [None, *SIGHTS])
@pytest.mark.parametrize("shade", ["light", "dark"])
def test_the_rungs_of_the_ladder_differ_for_every_kind_of_sight(sight: str | None, shade: str) -> None:
    rungs = [palette.ink(name) for name in palette.ORDER if name.startswith("rung-")]
    assert len(rungs) == 11
    for one, other in itertools.combinations(rungs, 2):
        distance = math.dist(seen(getattr(one, shade), sight), seen(getattr(other, shade), sight))
        assert distance > 11 or one.dash != other.dash, (one.css, other.css, distance)


def test_a_target_has_its_own_colour_and_unknown_ones_keep_theirs() -> None:
    named = [palette.ink(name).light for name in palette._FIXED]
    assert len(set(named)) == len(named)
    assert palette.ink("something-new") == palette.ink("something-new")
