"""Curves of runs flow in, charts as HTML come out: lines as SVG, labels as text beside them.

The lines stretch with the page and the text does not, so that a chart is readable at every width. A small script, in
`page`, shows the values under the pointer; everything that it shows is in the `data-points` of the chart.
"""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

import numpy as np

from homespun.records.thinning import extremes

SIDE = 1000
"""Units of the drawing in both directions."""
MOST_POINTS = 400
"""Of a line. A longer one is drawn by the least and the greatest value of each stretch, so that spikes stay."""
MOST_DOTS = 60
"""A line of more points is drawn without dots."""
LOG_RANGE = 30.0
"""Where the values of a chart differ by a larger factor, equal factors have equal heights."""
COLOURS = 6
"""Different colours of lines, named `c1` to `c6`; more lines use them again."""

Style = Literal["line", "pale", "dots", "dashed", "reference"]
Points = Sequence[tuple[float, float]]
"""x and y, in order of x."""


@dataclass(frozen=True)
class Line:
    """A line of a chart."""

    label: str
    points: Points
    colour: int = 0
    """From 0 on."""
    style: Style = "line"
    in_legend: str | None = None
    """In place of the label; an empty text leaves the line out."""


@dataclass(frozen=True)
class Band:
    """A range behind the lines."""

    label: str
    points: Sequence[tuple[float, float, float]]
    """x, least and greatest y."""


@dataclass(frozen=True)
class Chart:
    """A chart with its title and units."""

    title: str
    unit: str
    lines: Sequence[Line]
    from_zero: bool = False
    """The axis begins at zero, unless the values differ by large factors."""
    levels: Sequence[tuple[str, float]] = ()
    """Horizontal lines with labels."""
    band: Band | None = None
    visible: tuple[float, float] | None = None
    """The least and greatest value to show; by default all are shown."""

    def html(self, x_unit: str = "tokens") -> str:
        """The chart as a `<figure>`; an empty text if there is no point."""
        lines = [line for line in self.lines if line.points]
        if not lines:
            return ""
        scale = self._scale(lines)
        x_most = max(x for line in lines for x, _ in line.points)
        x_most = x_most if x_most > 0 else 1.0

        def across(x: float) -> float:
            return SIDE * x / x_most

        drawn = [_band(self.band, across, scale)] if self.band else []
        for _, level in self.levels:
            height = scale(level)
            drawn.append(f'<path class="level" d="M0 {height:.1f}H{SIDE}"/>')
        drawn += [_path(line, across, scale) for line in lines]
        grid = "".join(
            f'<path class="grid" d="M0 {scale(tick):.1f}H{SIDE}"/>' for tick in scale.ticks
        )
        y_labels = "".join(
            f'<span style="top:{scale(tick) / 10:.2f}%">{escape(number(tick))}</span>'
            for tick in scale.ticks
        )
        x_labels = "".join(
            f'<span class="{_side(across(tick))}" style="left:{across(tick) / 10:.2f}%">'
            f"{escape(number(tick))}</span>"
            for tick in ticks(0.0, x_most, 5)
        )
        summary = escape(self.summary(lines), quote=True)
        data = [
            {
                "label": line.label,
                "colour": line.colour % COLOURS + 1,
                "points": list(thinned(line.points)),
            }
            for line in lines
            if line.style != "pale" or not any(other.style == "line" for other in lines)
        ]
        points = json.dumps(
            {"most": x_most, "unit": x_unit, "lines": _rounded(data)}, separators=(",", ":")
        )
        return (
            f'<figure class="chart"><figcaption><h3>{escape(self.title)}</h3> '
            f'<span class="unit">{escape(self.unit)}</span></figcaption>'
            f"{_legend(lines, self.levels, self.band)}"
            f'<div class="plot" data-points="{escape(points, quote=True)}">'
            f'<div class="y" aria-hidden="true">{y_labels}</div>'
            f'<div class="area"><svg viewBox="0 0 {SIDE} {SIDE}" preserveAspectRatio="none" role="img" '
            f'aria-label="{summary}">{grid}{"".join(drawn)}</svg></div>'
            f'<div class="x" aria-hidden="true">{x_labels}</div></div>'
            f'<p class="readout" aria-hidden="true">{escape(x_unit)}</p></figure>'
        )

    def summary(self, lines: Sequence[Line]) -> str:
        """The chart in words, for readers who do not see it."""
        told = [
            f"{line.label}: from {number(line.points[0][1])} to {number(line.points[-1][1])}, "
            f"least {number(min(y for _, y in line.points))}, greatest {number(max(y for _, y in line.points))}"
            for line in lines
            if line.style != "pale" or len(lines) == 1
        ]
        return f"{self.title}, {self.unit}. " + ". ".join(told) + "."

    def _scale(self, lines: Sequence[Line]) -> "Scale":
        shown = [y for line in lines for _, y in line.points]
        least, most = self.visible or (min(shown), max(shown))
        levels = [level for _, level in self.levels]
        if self.visible is None:
            least, most = min([least, *levels]), max([most, *levels])
            if self.band:
                least = min([least, *(low for _, low, _ in self.band.points)])
        positive = [y for y in [*shown, *levels] if y > 0]
        if self.from_zero and positive and most / min(positive) <= LOG_RANGE:
            return Scale(min(0.0, least), most * 1.05)
        if self.from_zero and least > 0:
            return Scale(least / 1.2, most * 1.2, logarithmic=True)
        if self.from_zero:
            return Scale(min(0.0, least), most * 1.05 if most > 0 else 1.0)
        room = max(0.06 * (most - least), 0.02 * abs(most)) or 1.0
        return Scale(least - room, most + room)


@dataclass(frozen=True)
class Scale:
    """The height of a value in the drawing; 0 is the top."""

    least: float
    most: float
    logarithmic: bool = False

    def __call__(self, y: float) -> float:
        low, high, value = self.least, self.most, y
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(max(y, self.least))
        return min(2.0 * SIDE, max(-SIDE, SIDE * (high - value) / (high - low)))

    @property
    def ticks(self) -> list[float]:
        if not self.logarithmic:
            return ticks(self.least, self.most, 5)
        first, last = math.ceil(math.log10(self.least)), math.floor(math.log10(self.most))
        if last > first:
            every = math.ceil((last - first) / 5)
            return [10.0**power for power in range(first, last + 1, every)]
        return [tick for tick in ticks(self.least, self.most, 4) if tick > 0]


def ticks(least: float, most: float, about: int) -> list[float]:
    """Round numbers between two values, about so many."""
    rough = (most - least) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    first = math.ceil(least / step - 1e-9)
    last = math.floor(most / step + 1e-9)
    return [round(n * step, 12) for n in range(first, last + 1)]


def thinned(points: Points) -> Points:
    """At most `MOST_POINTS` of the points: of each stretch the least and the greatest, in their order."""
    if len(points) <= MOST_POINTS:
        return points
    return [points[i] for i in extremes(np.array([y for _, y in points]), MOST_POINTS)]


def number(value: float) -> str:
    """'0', '0.0012', '3.25', '1,250', '41 M': at most four digits."""
    size = abs(value)
    for unit, name in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if size >= unit:
            return f"{value / unit:.4g} {name}"
    if size >= 10_000:
        return f"{value / 1000:.4g} k"
    if size >= 1000:
        return f"{value:,.0f}"
    return "0" if size == 0 else f"{value:.4g}" if size >= 1e-4 else f"{value:.1e}"


def _side(place: float) -> str:
    """The alignment of a label, which must not reach beyond the drawing."""
    return "first" if place < 0.02 * SIDE else "last" if place > 0.98 * SIDE else "inner"


def _path(line: Line, across: Callable[[float], float], scale: Scale) -> str:
    points = thinned(line.points)
    places = [(across(x), scale(y)) for x, y in points]
    kind = f"{line.style} c{line.colour % COLOURS + 1}"
    dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in places)
    if len(places) == 1:
        return f'<path class="dots {kind}" d="{dots}"/>'
    joined = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
    if line.style != "dots":
        return f'<path class="{kind}" d="{joined}"/>'
    drawn = f'<path class="{kind.split()[1]}" d="{joined}"/>'
    return f'{drawn}<path class="{kind}" d="{dots}"/>' if len(places) <= MOST_DOTS else drawn


def _band(band: Band, across: Callable[[float], float], scale: Scale) -> str:
    there = [f"{across(x):.1f} {scale(low):.1f}" for x, low, _ in band.points]
    back = [f"{across(x):.1f} {scale(high):.1f}" for x, _, high in reversed(band.points)]
    return f'<path class="band" d="M{"L".join([*there, *back])}Z"/>'


def _legend(lines: Sequence[Line], levels: Sequence[tuple[str, float]], band: Band | None) -> str:
    """The meaning of the lines; nothing where there is only one."""
    named = [line for line in lines if line.style != "pale"] or list(lines)
    labels = [line.label if line.in_legend is None else line.in_legend for line in named]
    entries = [
        f'<li><svg viewBox="0 0 24 8" aria-hidden="true"><path class="{line.style} '
        f'c{line.colour % COLOURS + 1}" d="{"M12 4h0" if line.style == "dots" else "M1 4H23"}"/></svg>'
        f"{escape(label)}</li>"
        for line, label in zip(named, labels, strict=True)
        if label
    ]
    entries += [
        f'<li><svg viewBox="0 0 24 8" aria-hidden="true"><path class="level" d="M1 4H23"/></svg>'
        f"{escape(label)}</li>"
        for label, _ in levels
    ]
    if band:
        entries.append(
            '<li><svg viewBox="0 0 24 8" aria-hidden="true"><path class="band" d="M1 0H23V8H1Z"/></svg>'
            f"{escape(band.label)}</li>"
        )
    return f'<ul class="legend">{"".join(entries)}</ul>' if len(entries) > 1 else ""


def _rounded(data: list[dict[str, object]]) -> list[dict[str, object]]:
    """The points with as many digits as a reader needs."""
    for line in data:
        points: Points = line["points"]  # type: ignore[assignment]
        line["points"] = [[float(f"{x:.10g}"), float(f"{y:.5g}")] for x, y in points]
    return data
