"""A small SVG writer: escaped text, exact places, colours by class so that dark mode and print can change
them."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

Attribute = str | int | float | None

# The widest font that the page may fall back to (DejaVu Sans) takes this much of an em per character.
EM_PER_CHARACTER = 0.6


def text_width(text: str, size: float = 13) -> float:
    """Upper estimate of a text's width in px: layouts that hold with it hold with narrower fonts too."""
    return len(text) * size * EM_PER_CHARACTER


def _number(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)


def tag(name: str, attributes: dict[str, Attribute], inner: str = "") -> str:
    """One element; `inner` is markup, attribute values are escaped here."""
    written = "".join(
        f' {key}="{escape(_number(value) if isinstance(value, int | float) else value, quote=True)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{written}>{inner}</{name}>" if inner else f"<{name}{written}/>"


class Svg:
    """A drawing of fixed width in px, with a title and a description for those who do not see it."""

    def __init__(self, width: float, height: float, alt: str, kind: str = "") -> None:
        self.width, self.height, self.alt, self.kind = width, height, alt, kind
        self.parts: list[str] = []

    def add(self, name: str, css: str = "", **attributes: Attribute) -> None:
        """An element without text; underscores in names stand for hyphens."""
        named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
        self.parts.append(tag(name, {"class": css or None, **named}))

    def line(self, x1: float, y1: float, x2: float, y2: float, css: str) -> None:
        """A straight line."""
        self.add("line", css, x1=x1, y1=y1, x2=x2, y2=y2)

    def rect(self, x: float, y: float, width: float, height: float, css: str, radius: float = 0) -> None:
        """A box; a width that rounds to nothing is drawn half a px wide, so that it is still seen."""
        self.add("rect", css, x=x, y=y, width=max(width, 0.5), height=height, rx=radius or None)

    def hatched(self, x: float, y: float, width: float, height: float, css: str, gap: float = 9) -> None:
        """A pale box with slanted stripes: what was not measured but extrapolated.

        Each stripe is drawn; a pattern would be looked up by an id, which two drawings of a page would share.
        """
        self.rect(x, y, width, height, f"pale {css}")
        stripes = []
        for index in range(int((width + height) / gap) + 1):
            at = index * gap - height
            start, end = max(at, 0.0), min(at + height, width)
            if end > start:
                ends = f"{x + end:.1f} {y + height - (end - at):.1f}"
                stripes.append(f"M{x + start:.1f} {y + height - (start - at):.1f}L{ends}")
        self.path("".join(stripes) or "M0 0", "stripe")

    def circle(self, x: float, y: float, radius: float, css: str, tip: str = "") -> None:
        """A dot; `tip` shows when a pointer rests on it."""
        place: dict[str, Attribute] = {"class": css or None, "cx": x, "cy": y, "r": radius}
        self.parts.append(tag("circle", place, tag("title", {}, escape(tip)) if tip else ""))

    def path(self, d: str, css: str) -> None:
        """A path, its commands already written."""
        self.add("path", css, d=d)

    def polyline(self, points: Iterable[tuple[float, float]], css: str) -> None:
        """An open line through points."""
        self.add("polyline", css, points=" ".join(f"{x:.1f},{y:.1f}" for x, y in points))

    def text(self, x: float, y: float, words: str, css: str = "", anchor: str = "start") -> None:
        """Words with their base line at y; `anchor` is start, middle or end."""
        place: dict[str, Attribute] = {"class": css or None, "x": x, "y": y}
        if anchor != "start":
            place["text-anchor"] = anchor
        self.parts.append(tag("text", place, escape(words)))

    def add_text(self, x: float, y: float, words: str, css: str, style: str) -> None:
        """Words with a style of their own, for an animation's timing."""
        self.parts.append(tag("text", {"class": css, "x": x, "y": y, "style": style}, escape(words)))

    def render(self) -> str:
        """The whole element, ready to stand inside HTML."""
        head: dict[str, Attribute] = {
            "class": f"drawing {self.kind}".strip(),
            "width": self.width,
            "height": self.height,
            "viewBox": f"0 0 {_number(self.width)} {_number(self.height)}",
            "role": "img",
            "aria-label": self.alt,
        }
        return tag("svg", head, "\n".join(self.parts) or "<g></g>")


def standalone(markup: str, style: str) -> str:
    """The drawing as a file of its own, with the style that it needs inside."""
    opened = markup.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    head, rest = opened.split(">", 1)
    return f"{head}>\n<style>{style}</style>\n{rest}\n"
