"""The report as one HTML page that needs nothing but itself: charts as SVG, light and dark."""
from __future__ import annotations

from html import escape

from . import chart, units
from .report import ABSENT, FAILED, Report, Row, ratio
from .table import short

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1c2024; --faint: #60666d; --line: #d9dde1; --bad: #b3261e; }
@media (prefers-color-scheme: dark) {
  :root { --page: #15181b; --text: #e6e8ea; --faint: #9aa1a8; --line: #33393f; --bad: #ff8a80; }
}
body { background: var(--page); color: var(--text); font: 15px/1.5 system-ui, sans-serif; margin: 0 auto;
  max-width: 1080px; padding: 1.5rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .5rem; }
p, ul { color: var(--faint); margin: .4rem 0; } .wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .6rem; text-align: right; white-space: nowrap;
  font-variant-numeric: tabular-nums; }
th { font-weight: 600; } th:first-child, td:first-child { text-align: left; }
td b { color: var(--faint); display: inline-block; font-weight: 400; min-width: 3.6em; }
td small { color: var(--faint); display: block; } .failed { color: var(--bad); }
.facts td { text-align: left; white-space: normal; } .facts td:first-child { color: var(--faint); white-space: nowrap; }
code { overflow-wrap: anywhere; }
svg { display: block; min-width: 720px; width: 100%; } svg text { fill: var(--text); font: 12px system-ui, sans-serif; }
svg .faint { fill: var(--faint); font-size: 11px; } svg .bad { fill: var(--bad); font-size: 11px; }
svg .grid { stroke: var(--line); } svg .whisker { stroke: var(--text); stroke-width: 1.2; }
.legend span { margin-right: 1.2rem; white-space: nowrap; }
.legend i { border-radius: 2px; display: inline-block; height: .75em; margin-right: .4em; width: 1.1em; }
"""


def render(report: Report) -> str:
    systems = [system.name for system in report.present()]
    body = [_introduction(report), _legend(systems)]
    for group, rows in report.groups().items():
        body.append(f"<h2>{escape(group)}</h2>")
        for unit in dict.fromkeys(row.unit for row in rows):
            body.append(f'<div class="wide">{chart.render(report, [row for row in rows if row.unit == unit], systems)}</div>')
        body.append(_table(report, rows, systems))
    body += [_remarks(report), _facts(report)]
    style = _STYLE + chart.colours(systems)
    return ('<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Ringfence side by side</title>'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<style>{style}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n")


def _introduction(report: Report) -> str:
    rounds = report.settings.get("rounds")
    return (f"<h1>Ringfence side by side</h1><p>{escape(report.begun)}, {escape(str(report.machine.get('cpu', '')))}, "
            f"{report.machine.get('cores', '?')} cores, Linux {escape(str(report.machine.get('kernel', '')))}. Medians "
            f"of {rounds} round{'s' if rounds != 1 else ''} in which the systems took turns; whiskers and brackets: lowest to highest. Scales are "
            "logarithmic. Less is better.</p>")


def _legend(systems: list[str]) -> str:
    items = "".join(f'<span><i style="background: var(--{chart.css_name(name)})"></i>{escape(name)}</span>'
                    for name in systems)
    return f'<p class="legend">{items}</p>'


def _cell(report: Report, row: Row, system: str) -> str:
    cell = report.cells.get(row.name, {}).get(system)
    if cell is not None and cell.status in (FAILED, ABSENT):
        return f'<td class="{cell.status}" title="{escape(cell.reason)}">{cell.status}</td>'
    summary = report.summary(row.name, system)
    if summary is None:
        return "<td>–</td>"
    native = units.times(ratio(summary, report.summary(row.name, "native")))
    beside = "" if system == "native" or native == "–" else f" <b>{native}</b>"
    return (f"<td>{units.quantity(summary.median, row.unit)}{beside}<small>[{units.quantity(summary.low, row.unit)}, "
            f"{units.quantity(summary.high, row.unit)}]</small></td>")


def _table(report: Report, rows: list[Row], systems: list[str]) -> str:
    pairs = report.peer_pairs()
    head = "".join(f"<th>{escape(name)}</th>" for name in systems)
    head += "".join(f"<th>{escape(short(peer))} / {escape(short(ours))}</th>" for peer, ours in pairs)
    lines = []
    for row in rows:
        ratios = [units.times(ratio(report.summary(row.name, peer), report.summary(row.name, ours)))
                  for peer, ours in pairs]
        lines.append(f"<tr><td>{escape(row.title)}<small>{escape(row.name)}</small></td>"
                     + "".join(_cell(report, row, name) for name in systems)
                     + "".join(f"<td>{text}</td>" for text in ratios) + "</tr>")
    return f'<div class="wide"><table><tr><th></th>{head}</tr>{"".join(lines)}</table></div>'


def _remarks(report: Report) -> str:
    found = [f"absent: {system.name}: {system.absent}" for system in report.systems if system.absent is not None]
    found += [f"absent: {row}: {reason}" for row, reason in report.absent_rows()]
    found += [f"failed: {row} in {system}: {reason}" for row, system, reason in report.failures()]
    found += ["× beside a number: times native", *report.notes]
    return "<h2>Notes</h2><ul>" + "".join(f"<li>{escape(text)}</li>" for text in found) + "</ul>"


def _facts(report: Report) -> str:
    facts = [(key, str(value)) for key, value in {**report.machine, **report.versions}.items()]
    facts += [(system.name, " ".join([*system.command, "COMMAND"])) for system in report.present()]
    facts += list(report.commands.items())
    lines = "".join(f"<tr><td>{escape(key)}</td><td><code>{escape(value)}</code></td></tr>" for key, value in facts)
    return f'<h2>The host, the programs and the commands</h2><table class="facts">{lines}</table>'
