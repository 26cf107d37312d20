"""Line charts and bars as SVG, drawn by hand: text that needs no script, no font and no other file.

Colours are classes of the page's style sheet, so a chart follows the reader's light or dark screen. Every word that is
drawn is escaped.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from dreambooth_resume.insight.series import XY

WIDTH, HEIGHT = 720, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 14, 34


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One line of a chart; `style` is a class of the page: `raw`, `main`, `other`, `held`, `lost`."""

    points: Sequence[XY]
    style: str
    label: str | None = None
    """For the legend; None: not in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A vertical line, such as an interruption; `title` is shown where the reader points at it."""

    x: float
    title: str
    style: str = "cut"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A stretch on a row of its own."""

    label: str
    start: float
    end: float
    style: str
    title: str


def text(value: object) -> str:
    """Anything as text of the page: what it holds can't become a tag, nor end an attribute."""
    return html.escape(str(value), quote=True)


def line_chart(lines: Sequence[Line], *, name: str, marks: Sequence[Mark] = (), x_to: float | None = None) -> str:
    """The lines over a common x, with an axis of each; an empty string where there is nothing to draw.

    `name` is what the chart shows, for readers who don't see it. `x_to`: as far as the x axis goes at least.
    """
    drawn = [line for line in lines if line.points]
    if not drawn:
        return ""
    xs = [x for line in drawn for x, _ in line.points]
    ys = [y for line in drawn for _, y in line.points]
    across = _Axis.over(min(xs), max([*xs, *([x_to] if x_to is not None else [])]), _LEFT, WIDTH - _RIGHT)
    up = _Axis.over(min(ys), max(ys), HEIGHT - _BOTTOM, _TOP, is_padded=True)
    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{text(name)}">']
    for value in up.ticks:
        y = up.at(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="y" x="{_LEFT - 6}" y="{y + 4:.1f}">{up.word(value)}</text>')
    for value in across.ticks:
        parts.append(f'<text class="x" x="{across.at(value):.1f}" y="{HEIGHT - 12}">{across.word(value)}</text>')
    for mark in marks:
        x = across.at(mark.x)
        parts.append(
            f'<line class="{text(mark.style)}" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}">'
            f"<title>{text(mark.title)}</title></line>"
        )
    for line in drawn:
        points = " ".join(f"{across.at(x):.1f},{up.at(y):.1f}" for x, y in line.points)
        if len(line.points) == 1:
            x, y = line.points[0]
            parts.append(f'<circle class="{text(line.style)}" cx="{across.at(x):.1f}" cy="{up.at(y):.1f}" r="3"/>')
        else:
            parts.append(f'<polyline class="{text(line.style)}" points="{points}"/>')
    parts.append("</svg>")
    return "".join(parts) + _legend(drawn)


def bar_chart(bars: Sequence[Bar], *, name: str, unit: str) -> str:
    """A row for each bar, from top to bottom, over a common scale; an empty string without any."""
    if not bars:
        return ""
    row, top = 22, 6
    height = top + row * len(bars) + 30
    left = 92
    across = _Axis.over(0.0, max(bar.end for bar in bars), left, WIDTH - _RIGHT)
    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{text(name)}">']
    for value in across.ticks:
        x = across.at(value)
        parts.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{height - 28}"/>')
        parts.append(f'<text class="x" x="{x:.1f}" y="{height - 10}">{across.word(value)} {text(unit)}</text>')
    for place, bar in enumerate(bars):
        y = top + row * place
        begin, end = across.at(bar.start), across.at(bar.end)
        parts.append(f'<text class="y" x="{left - 6}" y="{y + 15}">{text(bar.label)}</text>')
        parts.append(
            f'<rect class="{text(bar.style)}" x="{begin:.1f}" y="{y + 3}" width="{max(1.5, end - begin):.1f}" '
            f'height="16" rx="2"><title>{text(bar.title)}</title></rect>'
        )
    return "".join([*parts, "</svg>"])


def _legend(lines: Sequence[Line]) -> str:
    items = [f'<span><i class="{text(line.style)}"></i>{text(line.label)}</span>' for line in lines if line.label]
    return f'<p class="legend">{"".join(items)}</p>' if items else ""


@dataclass(frozen=True, slots=True)
class _Axis:
    """From values to places on the page, with round ticks."""

    low: float
    high: float
    begin: float
    end: float
    step: float

    @classmethod
    def over(cls, low: float, high: float, begin: float, end: float, *, is_padded: bool = False) -> _Axis:
        if high - low <= max(abs(low), abs(high), 1e-290) * 1e-12:
            # One value, or as good as one: with no reach of its own it stands in the middle.
            reach = max(abs(low) * 0.1, 1e-9) if low else 1.0
            low, high = low - reach, high + reach
        if is_padded:
            room = 0.04 * (high - low)
            low, high = low - room, high + room
        return cls(low, high, begin, end, _round_step((high - low) / 5.0))

    def at(self, value: float) -> float:
        return self.begin + (value - self.low) / (self.high - self.low) * (self.end - self.begin)

    @property
    def ticks(self) -> list[float]:
        first = math.ceil(self.low / self.step - 1e-9)
        return [
            number * self.step for number in range(first, first + 12) if number * self.step <= self.high * (1 + 1e-9)
        ]

    def word(self, value: float) -> str:
        """`0.15`, `2,000`, `1e-04`: as many digits as tell one tick from the next."""
        if abs(value) < self.step * 1e-6:
            return "0"
        if self.step < 1e-3 and abs(self.high) < 1e-2:
            most = math.floor(math.log10(max(abs(self.low), abs(self.high))))
            digits = max(0, most - math.floor(math.log10(self.step)))
            return f"{value:.{min(digits, 6)}e}".replace("e-0", "e-")
        digits = max(0, -math.floor(math.log10(self.step)))
        return f"{value:,.{digits}f}"


def _round_step(raw: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(raw))
    return next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if factor * power >= raw * (1 - 1e-9))
