"""Runs jobs round by round: in each round every system runs every job once, neighbours in time, in rotating order."""
from __future__ import annotations

from collections.abc import Callable

from .jobs import Failure, Job, Place, Sample
from .report import ABSENT, OK, Report
from .systems import System

Progress = Callable[[str], None]


def rotated(systems: list[System], by: int) -> list[System]:
    by %= max(len(systems), 1)
    return systems[by:] + systems[:by]


def run(report: Report, jobs: list[Job], systems: list[System], native: System, place: Place, rounds: int,
        progress: Progress) -> None:
    """Fills the report's cells. An interrupted run leaves what was measured so far."""
    ready = prepare(report, jobs, systems, native, place, progress)
    steps = sum(job.in_round(number) for number in range(rounds) for job in ready) * len(systems)
    step = 0
    for number in range(rounds):
        for index, job in enumerate(ready):
            if not job.in_round(number):
                continue
            for system in rotated(systems, number + index):
                step += 1
                progress(f"{step}/{steps}  round {number + 1}  {job.rows[0].name}  {system.name}")
                measure(report, job, system, place)


def prepare(report: Report, jobs: list[Job], systems: list[System], native: System, place: Place,
            progress: Progress) -> list[Job]:
    """Returns the jobs that this host can run; the rows of the others become absent, or failed everywhere."""
    ready = []
    for job in jobs:
        for row in job.rows:
            report.commands[row.name] = job.command(place)
        reason = job.missing()
        if reason is None:
            progress(f"warming up  {job.rows[0].name}")
            try:
                job.prepare(place, native)
                ready.append(job)
                continue
            except Failure as failure:
                for row in job.rows:
                    for system in systems:
                        report.cell(row.name, system.name).fail(f"natively: {failure}")
                continue
        for row in job.rows:
            for system in systems:
                cell = report.cell(row.name, system.name)
                cell.status, cell.reason = ABSENT, reason
    return ready


def measure(report: Report, job: Job, system: System, place: Place) -> None:
    """One sample for each of the job's rows. A row that failed once is not tried again."""
    cells = {row.name: report.cell(row.name, system.name) for row in job.rows}
    if all(cell.status != OK for cell in cells.values()):
        return
    try:
        found = job.take(place, system)
    except Failure as failure:
        for cell in cells.values():
            cell.fail(str(failure))
        return
    for name, cell in cells.items():
        result = found.get(name)
        if isinstance(result, Sample):
            cell.add(result.value, result.detail)
        elif isinstance(result, Failure):
            cell.fail(str(result))
