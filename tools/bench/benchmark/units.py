"""Numbers as people read them: three significant digits and a unit."""
from __future__ import annotations

# Of each kind of unit: (size, name), the largest first.
_SCALES = {
    "ns": ((1e9, "s"), (1e6, "ms"), (1e3, "µs"), (1, "ns")),
    "bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")),
    "percent": ((1, "%"),),
}


def digits(value: float) -> str:
    """Three significant digits without an exponent; no more than three decimals."""
    if value >= 100:
        return f"{value:.0f}"
    if value >= 10:
        return f"{value:.1f}"
    if value >= 1:
        return f"{value:.2f}"
    return f"{value:.3f}" if value else "0"


def quantity(value: float, unit: str, short: bool = False) -> str:
    """`short`: without zeros after the point, as on a scale."""
    write = (lambda number: f"{number:g}") if short else digits
    scales = _SCALES[unit]
    for size, name in scales:
        # 999.6 ns rounds to the next unit's 1.
        if value >= size * 0.9995:
            return f"{write(max(value / size, 1))} {name}"
    size, name = scales[-1]
    return f"{write(value / size)} {name}"


def times(ratio: float | None) -> str:
    if ratio is None:
        return "–"
    return f"{digits(ratio) if ratio >= 1 else f'{ratio:.2f}'}×"


def spread(part: float) -> str:
    percent = part * 100
    return "±<1%" if 0 < percent < 0.5 else f"±{percent:.0f}%"
