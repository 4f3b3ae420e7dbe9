"""Charts as SVG, by hand: bars for figures beside each other, lines for growth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, LEFT, BAR, GAP = 720, 220, 18, 8
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


def lines(title: str, x_name: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Return a chart of lines through points (x, y), x on a logarithmic scale, y from 0."""
    points = [point for line in series.values() for point in line]
    low, high = (math.log10(f(x for x, _ in points)) for f in (min, max))
    most, height, left = max(y for _, y in points) * 1.05, 300, 90
    parts = [f'<text x="{left}" y="20" font-weight="bold">{escape(title)}</text>']

    def place(x: float, y: float) -> tuple[float, float]:
        share = (math.log10(x) - low) / (high - low or 1)
        return left + share * (WIDTH - left - 30), 40 + height * (1 - y / most)

    for step in range(5):
        value = most * step / 4
        _, y = place(points[0][0], value)
        parts.append(f'<line x1="{left}" x2="{WIDTH - 30}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:,.0f}</text>')
    for x in sorted({x for x, _ in points}):
        parts.append(f'<text x="{place(x, 0)[0]:.1f}" y="{height + 58}" text-anchor="middle">{x:,.0f}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{height + 78}" text-anchor="middle">{escape(x_name)}</text>')
    for number, (name, line) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*point) for point in line))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{left + 8}" y="{54 + 18 * number}" fill="{colour}">{escape(name)}</text>')
    return _svg(parts, height + 90)


def _svg(parts: Sequence[str], height: float) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height:.0f}" font-family="sans-serif"'
    return "\n".join([f'{head} font-size="13">', '<rect width="100%" height="100%" fill="white"/>', *parts, "</svg>\n"])
