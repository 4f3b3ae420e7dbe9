"""Charts as SVG, by hand: bars for figures beside each other, lines for growth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from html import escape

WIDTH, LEFT, BAR, GAP = 720, 220, 18, 8
#: Height of a line of text, and width of a character.
ROW, CHARACTER = 18, 9
#: Points of a line from which on they are not marked.
MANY = 30
COLOURS = ("#2b6cb0", "#c05621", "#2f855a", "#6b46c1", "#b83280")


def bars(groups: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """Return a chart of horizontal bars: for each group its title, and a bar for each name."""
    parts: list[str] = []
    y = 10
    for title, values in groups.items():
        parts.append(f'<text x="10" y="{y + 16}" font-weight="bold">{escape(title)}, {escape(unit)}</text>')
        y += 26
        most = max(values.values())
        for name, value in values.items():
            length = (WIDTH - LEFT - 90) * value / most
            colour = COLOURS[0 if name.startswith("crawler") else 1]
            parts.append(f'<text x="{LEFT - 8}" y="{y + 14}" text-anchor="end">{escape(name)}</text>')
            parts.append(f'<rect x="{LEFT}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>')
            parts.append(f'<text x="{LEFT + length + 6:.1f}" y="{y + 14}">{value:,.0f}</text>')
            y += BAR + GAP
        y += GAP
    return _svg(parts, y)


def lines(title: str, x_name: str, series: Mapping[str, Sequence[tuple[float, float]]], is_linear: bool = False) -> str:
    """Return a chart of lines through points (x, y), x on a logarithmic scale unless *is_linear*, y from 0."""
    top, left, right, height = 40 + ROW * len(series), 90, WIDTH - 50, 300
    scale = float if is_linear else math.log10
    points = [point for line in series.values() for point in line]
    low, high = (scale(f(x for x, _ in points)) for f in (min, max))
    step = _step(max(y for _, y in points))
    most = step * math.ceil(max(y for _, y in points) / step)

    def place(x: float, y: float) -> tuple[float, float]:
        return left + (scale(x) - low) / (high - low or 1) * (right - left), top + height * (1 - y / most)

    parts = [f'<text x="{left}" y="20" font-weight="bold">{escape(title)}</text>']
    for number in range(round(most / step) + 1):
        y = place(points[0][0], number * step)[1]
        parts.append(
            f'<line x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{"#ddd" if number else "#444"}"/>'
        )
        parts.append(f'<text x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{number * step:,.10g}</text>')
    for x in _labelled(sorted({x for x, _ in points}), lambda x: place(x, 0)[0]):
        parts.append(f'<text x="{place(x, 0)[0]:.1f}" y="{top + height + 18}" text-anchor="middle">{x:,.10g}</text>')
    middle = (left + right) / 2
    parts.append(f'<text x="{middle}" y="{top + height + 40}" text-anchor="middle">{escape(x_name)}</text>')
    for number, (name, line) in enumerate(series.items()):
        colour, y = COLOURS[number % len(COLOURS)], 40 + ROW * number
        parts.append(
            f'<line x1="{left}" x2="{left + 24}" y1="{y - 4}" y2="{y - 4}" stroke="{colour}" stroke-width="2"/>'
        )
        parts.append(f'<text x="{left + 32}" y="{y}" fill="{colour}">{escape(name)}</text>')
        places = [place(*point) for point in line]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        if len(line) < MANY:
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places]
    return _svg(parts, top + height + 54)


def _step(most: float) -> float:
    """Return the distance of lines at round numbers, four to eight of them up to *most*."""
    unit = 10 ** math.floor(math.log10(most or 1))
    return next(unit * share for share in (2.0, 1.0, 0.5, 0.2) if most >= 4 * unit * share)


def _labelled(values: Sequence[float], place: Callable[[float], float]) -> list[float]:
    """Return those of the sorted *values* whose labels have room beside each other; the last is one of them."""
    found: list[float] = []
    for value in reversed(values):
        if not found or place(found[-1]) - place(value) > CHARACTER * (1 + len(f"{found[-1]:,.10g}")):
            found.append(value)
    return found


def _svg(parts: Sequence[str], height: float) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" font-family="sans-serif"'
    return "\n".join([f'{head} font-size="13">', '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])
