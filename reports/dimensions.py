"""Values that are told in two units of one dimension: they are never put together, and that is said."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

from bench.core.sample import Sample

DIMENSIONS = (
    frozenset({"bytes", "kib", "mib", "gib", "kb", "mb", "gb"}),
    frozenset({"s", "ms", "us", "ns"}),
)


def mismatches(samples: Iterable[Sample]) -> list[str]:
    """One sentence for each quantity that the samples tell in two units of one dimension."""
    found: dict[tuple[str, frozenset[str]], set[str]] = defaultdict(set)
    for name in {name for sample in samples for name in sample.values}:
        what, _, unit = name.rpartition("_")
        for dimension in DIMENSIONS:
            if what and unit in dimension:
                found[what, dimension].add(name)
    return [
        f"The unit of “{what}” differs between samples ({' and '.join(sorted(names))}): they are kept apart, "
        "and no ratio is taken across them."
        for (what, _), names in sorted(found.items(), key=lambda one: one[0][0])
        if len(names) > 1
    ]
