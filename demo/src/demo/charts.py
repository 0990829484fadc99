"""Charts as inline SVG: the report is one file that needs no network. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 860
HEIGHT = 220
LEFT, RIGHT, TOP, BOTTOM = 56, 18, 12, 34
TICKS = 7


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values to pixels.

    Attributes:
        low: Value at the first pixel.
        high: Value at the last.
        first: Pixel of `low`.
        last: Pixel of `high`.
    """

    low: float
    high: float
    first: float
    last: float

    def at(self, value: float) -> float:
        """The pixel of a value."""
        span = (self.high - self.low) or 1.0
        return self.first + (value - self.low) / span * (self.last - self.first)

    def ticks(self) -> list[float]:
        """Round values inside the axis to label, some `TICKS` of them."""
        span = self.high - self.low
        if span <= 0:
            return [self.low]
        rough = span / TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        first = math.ceil(self.low / step)
        last = math.floor(self.high / step)
        return [index * step for index in range(first, last + 1)]


def bars(edges: Sequence[float], counts: Sequence[int], unit: str) -> str:
    """A histogram.

    Args:
        edges: n + 1 bin borders.
        counts: n counts.
        unit: Written behind the horizontal labels.
    """
    if not counts:
        return _empty()
    x = Axis(edges[0], edges[-1], LEFT, WIDTH - RIGHT)
    y = Axis(0, max([*counts, 1]), HEIGHT - BOTTOM, TOP)
    shapes = [
        f'<rect class="bar" x="{x.at(low) + 0.5:.1f}" y="{y.at(count):.1f}" '
        f'width="{max(1.0, x.at(high) - x.at(low) - 1):.1f}" '
        f'height="{y.at(0) - y.at(count):.1f}"><title>{low:.1f}–{high:.1f} {escape(unit)}: '
        f"{count}</title></rect>"
        for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ]
    return _frame(x, y, "".join(shapes), unit)


def lines(
    series: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    unit: str,
    marks: Sequence[tuple[float, float]] = (),
    *,
    span: tuple[float, float] | None = None,
) -> str:
    """Lines over time, with marked points.

    Args:
        series: Name and (x, y) points of each line, ascending in x.
        unit: Written behind the horizontal labels.
        marks: Points to mark, such as anomalies.
        span: Ends of the horizontal axis; those of the points by default.
    """
    points = [point for _, line in series for point in line]
    if not points:
        return _empty()
    first, last = span or (min(p[0] for p in points), max(p[0] for p in points))
    x = Axis(first, last, LEFT, WIDTH - RIGHT)
    low, high = min(p[1] for p in points), max(p[1] for p in points)
    pad = (high - low) * 0.05 or 1.0
    y = Axis(max(0.0, low - pad) if low >= 0 else low - pad, high + pad, HEIGHT - BOTTOM, TOP)
    shapes = [_line(index, name, line, x, y) for index, (name, line) in enumerate(series)]
    shapes += [
        f'<circle class="mark" cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="4"/>' for a, b in marks
    ]
    return _frame(x, y, "".join(shapes), unit)


def _line(index: int, name: str, line: Sequence[tuple[float, float]], x: Axis, y: Axis) -> str:
    path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in line)
    return (
        f'<polyline class="line s{index}" points="{path}"><title>{escape(name)}</title></polyline>'
    )


def _frame(x: Axis, y: Axis, shapes: str, unit: str) -> str:
    base = HEIGHT - BOTTOM
    labels = [
        f'<text x="{x.at(tick):.1f}" y="{base + 18}" text-anchor="middle">{tick:.4g}</text>'
        for tick in x.ticks()
    ]
    labels += [
        f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y.at(tick):.1f}" '
        f'y2="{y.at(tick):.1f}"/>'
        f'<text x="{LEFT - 6}" y="{y.at(tick) + 4:.1f}" text-anchor="end">{tick:.4g}</text>'
        for tick in y.ticks()
    ]
    axis_title = (
        f'<text x="{WIDTH - RIGHT}" y="{HEIGHT - 2}" text-anchor="end">{escape(unit)}</text>'
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"{''.join(labels)}{shapes}{axis_title}</svg>"
    )


def _empty() -> str:
    return '<p class="none">nothing to show</p>'
