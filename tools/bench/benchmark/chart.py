"""Horizontal bars on a logarithmic scale: for each row one bar a system, with whiskers from lowest to highest."""
from __future__ import annotations

import math
from html import escape

from . import units
from .report import ABSENT, FAILED, Report, Row

# (on light, on dark); systems of one family share a hue.
_COLOURS = {
    "native": ("#8a929a", "#8a929a"),
    "ringfence:kvm": ("#0b5cad", "#5aa9f5"),
    "ringfence:trap": ("#17947f", "#41c9b0"),
    "runsc:systrap": ("#d9730d", "#f0954a"),
    "runsc:ptrace": ("#a8326e", "#e07ab0"),
}
_WIDTH, _LEFT, _RIGHT, _BAR, _GAP, _TOP = 1040, 230, 110, 12, 12, 8


def css_name(system: str) -> str:
    return system.replace(":", "-")


def colours(systems: list[str]) -> str:
    light = " ".join(f"--{css_name(name)}: {_COLOURS.get(name, ('#666', '#999'))[0]};" for name in systems)
    dark = " ".join(f"--{css_name(name)}: {_COLOURS.get(name, ('#666', '#999'))[1]};" for name in systems)
    return f":root {{ {light} }}\n@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"


class Scale:
    """From powers of ten that enclose all values to places on the page. Zero is at the left end."""

    def __init__(self, values: list[float]) -> None:
        positive = [value for value in values if value > 0] or [1.0]
        self.low = math.floor(math.log10(min(positive)))
        self.high = max(math.ceil(math.log10(max(positive))), self.low + 1)

    def x(self, value: float) -> float:
        part = (math.log10(value) - self.low) / (self.high - self.low) if value > 0 else 0.0
        return _LEFT + max(part, 0.0) * (_WIDTH - _LEFT - _RIGHT)


def render(report: Report, rows: list[Row], systems: list[str]) -> str:
    found = [summary for row in rows for name in systems if (summary := report.summary(row.name, name))]
    scale = Scale([value for summary in found for value in (summary.low, summary.high)])
    row_height = len(systems) * _BAR + _GAP
    height = _TOP + len(rows) * row_height + 22
    parts = [_grid(scale, height - 22, rows[0].unit)]
    for number, row in enumerate(rows):
        top = _TOP + number * row_height
        parts.append(f'<text x="{_LEFT - 8}" y="{top + (row_height - _GAP) / 2 + 4:.0f}" text-anchor="end">'
                     f"{escape(row.title)}</text>")
        parts += [_bar(report, row, name, scale, top + index * _BAR) for index, name in enumerate(systems)]
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(rows[0].group)}">{"".join(parts)}</svg>'


def _grid(scale: Scale, bottom: int, unit: str) -> str:
    lines = []
    for power in range(scale.low, scale.high + 1):
        x = scale.x(10.0**power)
        lines.append(f'<line class="grid" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{bottom}"/><text class="faint" x="{x:.1f}" '
                     f'y="{bottom + 15}" text-anchor="middle">{units.quantity(10.0**power, unit, short=True)}</text>')
    return "".join(lines)


def _bar(report: Report, row: Row, system: str, scale: Scale, y: float) -> str:
    middle, text_y = y + (_BAR - 2) / 2, y + _BAR - 2.5
    cell = report.cells.get(row.name, {}).get(system)
    if cell is not None and cell.status in (FAILED, ABSENT):
        reason = cell.reason if len(cell.reason) <= 90 else cell.reason[:89] + "…"
        return (f'<text class="bad" x="{_LEFT + 4}" y="{text_y}">{escape(system)} {cell.status}: {escape(reason)}</text>')
    summary = report.summary(row.name, system)
    if summary is None:
        return ""
    x, low, high = scale.x(summary.median), scale.x(summary.low), scale.x(summary.high)
    value = units.quantity(summary.median, row.unit)
    tip = (f"{system}, {row.title}: {value} ({units.quantity(summary.low, row.unit)} to "
           f"{units.quantity(summary.high, row.unit)}, {summary.count} samples)")
    whisker = (f'<path class="whisker" fill="none" d="M{low:.1f} {middle}H{high:.1f}M{low:.1f} {middle - 3}v6M{high:.1f} '
               f'{middle - 3}v6"/>') if summary.count > 1 else ""
    return (f'<g><title>{escape(tip)}</title><rect x="{_LEFT}" y="{y}" width="{max(x - _LEFT, 1):.1f}" '
            f'height="{_BAR - 2}" fill="var(--{css_name(system)})"/>{whisker}'
            f'<text class="faint" x="{max(x, high) + 6:.1f}" y="{text_y}">{value}</text></g>')
