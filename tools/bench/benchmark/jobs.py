"""How rows are measured. A job runs something once in one system and gives a sample, or a failure, for its rows."""
from __future__ import annotations

import json
import os
import select
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from . import processes
from .report import Row
from .systems import ENVIRONMENT, System


@dataclass(frozen=True)
class Sample:
    value: float
    detail: dict[str, Any]


class Failure(Exception):
    """Why a row has no number in a system; one line."""


Found = dict[str, Sample | Failure]


@dataclass(frozen=True)
class Place:
    """Where a campaign runs and how long its parts may take."""

    measure: str  # the measuring program
    work: str  # a directory of the host with the programs' inputs; sandboxes see it, too
    quick: bool
    timeout: float
    idle_seconds: float
    settle_seconds: float  # how long an idle sandbox is left alone before it is looked at

    @property
    def environment(self) -> dict[str, str]:
        # What a launcher leaves behind goes with the work directory.
        return {**ENVIRONMENT, "TMPDIR": self.work}

    def execute(self, command: list[str]) -> str:
        """What the command writes to stdout. Raises Failure with the first line of its complaint."""
        outcome = processes.execute(command, self.environment, self.timeout)
        if complaint := outcome.complaint(self.timeout):
            raise Failure(complaint)
        return outcome.out


class Job:
    rows: tuple[Row, ...] = ()

    def missing(self) -> str | None:
        """Why this cannot be measured on this host at all."""
        return None

    def prepare(self, place: Place, native: System) -> None:
        """Runs natively before the rounds: warms the page cache, and learns what the output should be."""

    def in_round(self, number: int) -> bool:
        """Whether it takes part in that round; they count from 0."""
        del number
        return True

    def take(self, place: Place, system: System) -> Found:
        raise NotImplementedError

    def command(self, place: Place) -> str:
        """What is run, for people."""
        raise NotImplementedError


def last_json(output: str) -> tuple[str, dict[str, Any]]:
    """Splits off the last line, which is an object of JSON."""
    before, _, line = output.rstrip("\n").rpartition("\n")
    try:
        value = json.loads(line)
    except ValueError:
        raise Failure(f"the measuring program's result is not JSON: {line[:100]!r}") from None
    if not isinstance(value, dict):
        raise Failure(f"the measuring program's result is no object: {line[:100]!r}")
    return before, value


@dataclass(frozen=True)
class Operation(Job):
    """A row of the measuring program. A round's sample is the median of a few in one run of it."""

    row: Row
    options: tuple[str, ...] = ()

    @property
    def rows(self) -> tuple[Row, ...]:  # type: ignore[override]
        return (self.row,)

    def arguments(self, place: Place) -> list[str]:
        return ["--json", "--rounds", "3" if place.quick else "7", *self.options, self.row.name]

    def command(self, place: Place) -> str:
        return " ".join(["measure", *self.arguments(place)])

    def take(self, place: Place, system: System) -> Found:
        out = place.execute([*system.prefix, place.measure, "--scratch", system.scratch, *self.arguments(place)])
        _, result = last_json(out)
        try:
            measured = result["rows"][self.row.name]
            value = statistics.median(measured["samples_ns"])
            detail = {**measured, "scratch": result["scratch"]}
        except (KeyError, TypeError, statistics.StatisticsError) as error:
            raise Failure(f"the measuring program's result lacks {error}") from None
        return {self.row.name: Sample(value, detail)}


Check = Callable[[str, str], str | None]


def same(output: str, native: str) -> str | None:
    return None if output == native else f"it printed {output.strip()[:60]!r}, and natively {native.strip()[:60]!r}"


def same_number(output: str, native: str) -> str | None:
    """To one in a hundred: the host's files may change during a run."""
    try:
        if abs(int(output) - int(native)) <= abs(int(native)) / 100:
            return None
    except ValueError:
        pass
    return same(output, native)


@dataclass
class Program(Job):
    """A program or script: how long it takes inside (`inside`), and with its sandbox's start and end (`whole`)."""

    argv: tuple[str, ...]  # @WORK@ and @SCRATCH@ stand for directories
    whole: Row
    inside: Row | None = None
    needs: tuple[str, ...] = ()
    repeat: int = 1  # runs for one sample, whose median it is
    check: Check = same
    quick_argv: tuple[str, ...] = ()
    native_output: str | None = field(default=None, init=False)

    @property
    def rows(self) -> tuple[Row, ...]:  # type: ignore[override]
        return (self.inside, self.whole) if self.inside else (self.whole,)

    def missing(self) -> str | None:
        for program in self.needs:
            if not shutil.which(program, path=ENVIRONMENT["PATH"]):
                return f"{program} is not installed"
        return None

    def arguments(self, place: Place, scratch: str) -> list[str]:
        argv = self.quick_argv if place.quick and self.quick_argv else self.argv
        return [word.replace("@WORK@", place.work).replace("@SCRATCH@", f"{scratch}/program") for word in argv]

    def command(self, place: Place) -> str:
        return " ".join(self.arguments(place, "SCRATCH")).replace(place.work, "WORK")

    def run_once(self, place: Place, system: System) -> tuple[str, float, float | None]:
        """(its output, nanoseconds as a whole, nanoseconds inside)"""
        timer = [place.measure, "--run", "--"]
        inner = timer if self.inside else []
        out, whole = last_json(place.execute([*timer, *system.prefix, *inner, *self.arguments(place, system.scratch)]))
        if not self.inside:
            return out, float(whole["elapsed_ns"]), None
        out, inside = last_json(out)
        return out, float(whole["elapsed_ns"]), float(inside["elapsed_ns"])

    def prepare(self, place: Place, native: System) -> None:
        self.native_output, _, _ = self.run_once(place, native)

    def take(self, place: Place, system: System) -> Found:
        wholes: list[float] = []
        insides: list[float] = []
        for _ in range(self.repeat):
            out, whole, inside = self.run_once(place, system)
            if self.native_output is not None and (difference := self.check(out, self.native_output)):
                raise Failure(difference)
            wholes.append(whole)
            if inside is not None:
                insides.append(inside)
        found: Found = {self.whole.name: Sample(statistics.median(wholes), {"samples_ns": wholes})}
        if self.inside:
            found[self.inside.name] = Sample(statistics.median(insides), {"samples_ns": insides})
        return found


@dataclass(frozen=True)
class Idle(Job):
    """A sandbox whose program sleeps: memory and CPU time of all of the host's processes that make it up."""

    pss: Row
    rss: Row
    cpu: Row
    wanted: frozenset[str]  # names of the rows to measure

    @property
    def rows(self) -> tuple[Row, ...]:  # type: ignore[override]
        return tuple(row for row in (self.pss, self.rss, self.cpu) if row.name in self.wanted)

    def in_round(self, number: int) -> bool:
        return number == 0 or self.cpu.name not in self.wanted

    def command(self, place: Place) -> str:
        return f"measure --idle, looked at after {place.settle_seconds:g} s, CPU time over {place.idle_seconds:g} s"

    def take(self, place: Place, system: System) -> Found:
        command = [*system.prefix, place.measure, "--idle"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/",
                              env=place.environment, start_new_session=True) as process:
            assert process.stdin and process.stdout and process.stderr
            try:
                if not select.select([process.stdout], [], [], min(place.timeout, 30))[0]:
                    raise Failure("the idle program did not start within 30 s")
                if process.stdout.readline() != b"idle\n":
                    raise Failure(first_line(process.stderr.read()) or "the idle program did not start")
                time.sleep(place.settle_seconds)
                return self.look(place)
            finally:
                process.stdin.close()
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                processes.end_descendants(grace=3)

    def look(self, place: Place) -> Found:
        tree = processes.descendants(os.getpid())
        names = [process.name for process in tree]
        pids = [process.pid for process in tree]
        found: Found = {}
        for row, of in ((self.pss, processes.pss), (self.rss, processes.rss)):
            if row.name in self.wanted:
                found[row.name] = memory(pids, names, of)
        if self.cpu.name in self.wanted:
            found[self.cpu.name] = cpu(place.idle_seconds)
        return found


def first_line(text: bytes) -> str:
    lines = text.decode(errors="replace").strip().splitlines()
    return lines[0] if lines else ""


def memory(pids: list[int], names: list[str], of: Callable[[int], int]) -> Sample | Failure:
    try:
        each = [of(pid) for pid in pids]
    except OSError as error:
        return Failure(f"{error.strerror} for {error.filename}: run as root to look at a sandbox's processes")
    detail = {"processes": names, "bytes": each, "memory_files": processes.memory_files(pids)}
    return Sample(float(sum(each)), detail)


def cpu(seconds: float) -> Sample | Failure:
    def now() -> dict[tuple[int, int], float]:
        used = {}
        for process in processes.descendants(os.getpid()):
            try:
                used[(process.pid, process.begun)] = processes.cpu_seconds(process.pid)
            except OSError:  # it ended meanwhile
                continue
        return used

    before, begun = now(), time.monotonic()
    time.sleep(seconds)
    after, elapsed = now(), time.monotonic() - begun
    if gone := set(before) - set(after):
        return Failure(f"{len(gone)} of {len(before)} processes ended while the sandbox should have been idle")
    used = sum(seconds - before.get(process, 0.0) for process, seconds in after.items())
    return Sample(used / elapsed * 100, {"cpu_seconds": used, "seconds": elapsed, "processes": len(after)})
