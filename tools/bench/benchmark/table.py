"""The report as a table of text."""
from __future__ import annotations

from . import units
from .report import ABSENT, FAILED, Report, Row, ratio


def cell_text(report: Report, row: Row, system: str) -> str:
    cell = report.cells.get(row.name, {}).get(system)
    if cell is not None and cell.status in (FAILED, ABSENT):
        return cell.status
    summary = report.summary(row.name, system)
    if summary is None:
        return "–"
    text = f"{units.quantity(summary.median, row.unit)} {units.spread(summary.spread) if summary.count > 1 else '':>5}"
    if system != "native":
        text += f" {units.times(ratio(summary, report.summary(row.name, 'native'))):>6}"
    return text


def short(system: str) -> str:
    return system.partition(":")[2] or system


def render(report: Report) -> str:
    systems = [system.name for system in report.present()]
    pairs = report.peer_pairs()
    lines = [["", *systems, *(f"{short(peer)}/{short(ours)}" for peer, ours in pairs)]]
    titles: dict[int, str] = {}
    for group, rows in report.groups().items():
        titles[len(lines)] = group
        for row in rows:
            ratios = [units.times(ratio(report.summary(row.name, peer), report.summary(row.name, ours)))
                      for peer, ours in pairs]
            lines.append([row.name, *(cell_text(report, row, system) for system in systems), *ratios])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    out = []
    for number, line in enumerate(lines):
        if number in titles:
            out += ["", titles[number]]
        cells = [line[0].ljust(widths[0]), *(text.rjust(width) for text, width in zip(line[1:], widths[1:]))]
        out.append("  ".join(cells).rstrip())
    return "\n".join(out + ["", *remarks(report)]) + "\n"


def remarks(report: Report) -> list[str]:
    rounds = report.settings.get("rounds")
    found = [f"Medians of {rounds} round{'s' if rounds != 1 else ''}; ± half of the way from the lowest to the highest; "
             "× times native. Less is better."]
    found += [f"absent: {system.name}: {system.absent}" for system in report.systems if system.absent is not None]
    found += [f"absent: {row}: {reason}" for row, reason in report.absent_rows()]
    found += [f"failed: {row} in {system}: {reason}" for row, system, reason in report.failures()]
    found += [f"note: {note}" for note in report.notes]
    return found
