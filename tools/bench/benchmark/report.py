"""What a run found: everything raw, and the statistics made of it. It can be saved as JSON and loaded again."""
from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any

FORMAT = 1

OK = "ok"
FAILED = "failed"
ABSENT = "absent"


@dataclass(frozen=True)
class Row:
    name: str
    group: str
    title: str
    unit: str  # "ns", "bytes" or "percent"; less is better in all


@dataclass
class Cell:
    """One row in one system. A failure in any round makes it failed, and then it has no number."""

    status: str = OK
    reason: str = ""
    samples: list[float] = field(default_factory=list)  # one for each round
    details: list[dict[str, Any]] = field(default_factory=list)  # what each sample was made of

    def add(self, value: float, detail: dict[str, Any]) -> None:
        self.samples.append(value)
        self.details.append(detail)

    def fail(self, reason: str) -> None:
        lines = reason.strip().splitlines()
        self.status = FAILED
        self.reason = lines[0].strip() if lines else "no reason given"


@dataclass(frozen=True)
class Summary:
    median: float
    low: float
    high: float
    count: int

    @property
    def spread(self) -> float:
        """Half of the way from the lowest to the highest sample, as a part of the median."""
        return (self.high - self.low) / 2 / self.median if self.median else 0.0


def summarize(cell: Cell | None) -> Summary | None:
    """None for what has no number: not measured, failed or absent."""
    if cell is None or cell.status != OK or not cell.samples:
        return None
    return Summary(statistics.median(cell.samples), min(cell.samples), max(cell.samples), len(cell.samples))


def ratio(of: Summary | None, to: Summary | None) -> float | None:
    if of is None or to is None or to.median <= 0:
        return None
    return of.median / to.median


@dataclass
class SystemState:
    name: str
    command: list[str]
    scratch: str
    absent: str | None = None  # the reason

    @property
    def family(self) -> str:
        return self.name.partition(":")[0]


@dataclass
class Report:
    begun: str
    settings: dict[str, Any]
    machine: dict[str, Any]
    versions: dict[str, str]
    systems: list[SystemState]
    rows: list[Row]
    commands: dict[str, str] = field(default_factory=dict)  # what each row runs
    cells: dict[str, dict[str, Cell]] = field(default_factory=dict)  # by row and system
    notes: list[str] = field(default_factory=list)
    ended: str = ""

    def cell(self, row: str, system: str) -> Cell:
        return self.cells.setdefault(row, {}).setdefault(system, Cell())

    def summary(self, row: str, system: str) -> Summary | None:
        return summarize(self.cells.get(row, {}).get(system))

    def present(self) -> list[SystemState]:
        return [system for system in self.systems if system.absent is None]

    def groups(self) -> dict[str, list[Row]]:
        grouped: dict[str, list[Row]] = {}
        for row in self.rows:
            grouped.setdefault(row.group, []).append(row)
        return grouped

    def peer_pairs(self) -> list[tuple[str, str]]:
        """(peer, Ringfence platform) for every two of them that are present."""
        names = [(system.family, system.name) for system in self.present()]
        return [(peer, ours) for kind, ours in names if kind == "ringfence" for family, peer in names if family == "runsc"]

    def failures(self) -> list[tuple[str, str, str]]:
        """(row, system, reason), in the order of the table."""
        return [(row.name, system.name, cell.reason) for row in self.rows for system in self.present()
                if (cell := self.cells.get(row.name, {}).get(system.name)) and cell.status == FAILED]

    def absent_rows(self) -> list[tuple[str, str]]:
        """(row, reason) of the rows that were measured nowhere."""
        found = []
        for row in self.rows:
            cells = list(self.cells.get(row.name, {}).values())
            if cells and all(cell.status == ABSENT for cell in cells):
                found.append((row.name, cells[0].reason))
        return found

    def to_json(self) -> dict[str, Any]:
        summaries: dict[str, dict[str, Any]] = {}
        for row in self.rows:
            for system in self.present():
                if summary := self.summary(row.name, system.name):
                    summaries.setdefault(row.name, {})[system.name] = asdict(summary)
        return {"format": FORMAT, **asdict(self), "summaries": summaries}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Report:
        if data.get("format") != FORMAT:
            raise ValueError(f"its format is {data.get('format')!r}; this program reads {FORMAT}")
        values = {key: value for key, value in data.items() if key not in ("format", "summaries")}
        values["systems"] = [SystemState(**system) for system in data["systems"]]
        values["rows"] = [Row(**row) for row in data["rows"]]
        values["cells"] = {row: {system: Cell(**cell) for system, cell in cells.items()}
                           for row, cells in data["cells"].items()}
        return Report(**values)
