"""The host's processes: who descends from us, what memory and CPU time they take, and running commands among them.

A sandbox may have processes that its launcher no longer is the parent of. adopt_orphans() makes such processes
children of this one, so that "all descendants of this process" are the sandbox that runs, whole.
"""
from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from dataclasses import dataclass

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def adopt_orphans() -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


@dataclass(frozen=True)
class Process:
    pid: int
    parent: int
    name: str
    state: str
    begun: int  # clock ticks since boot; with the pid, tells processes apart for good


def parse_stat(text: str) -> Process:
    """Of /proc/PID/stat (proc(5)); the name is in parentheses and may hold any character."""
    before, _, rest = text.rpartition(")")
    pid, _, name = before.partition(" (")
    fields = rest.split()
    return Process(int(pid), int(fields[1]), name, fields[0], int(fields[19]))


def all_processes() -> list[Process]:
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                found.append(parse_stat(file.read()))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def descendants(root: int) -> list[Process]:
    """All processes below `root`, without it and without zombies."""
    children: dict[int, list[Process]] = {}
    for process in all_processes():
        children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    to_visit = [root]
    while to_visit:
        for child in children.get(to_visit.pop(), []):
            found.append(child)
            to_visit.append(child.pid)
    return [process for process in found if process.state != "Z"]


def kilobytes(path: str, key: str) -> int:
    """The value of a line "Key:  123 kB", in bytes."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    raise ValueError(f"{path} has no {key}")


def pss(pid: int) -> int:
    """Resident bytes, shared pages counted in parts: so that a sum over processes counts each page once."""
    return kilobytes(f"/proc/{pid}/smaps_rollup", "Pss")


def rss(pid: int) -> int:
    return kilobytes(f"/proc/{pid}/status", "VmRSS")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, ended threads included, to the nanosecond (clock_getcpuclockid(3))."""
    cpuclock_sched = 2
    return time.clock_gettime_ns((~pid << 3) | cpuclock_sched) / 1e9


def memory_files(pids: list[int]) -> int:
    """Bytes of the memory files (memfd_create(2)) that processes hold open, whether mapped or not."""
    sizes: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            for entry in os.scandir(f"/proc/{pid}/fd"):
                if os.readlink(entry.path).startswith("/memfd:"):
                    status = os.stat(entry.path)
                    sizes[(status.st_dev, status.st_ino)] = status.st_blocks * 512
        except OSError:
            continue
    return sum(sizes.values())


def end_descendants(grace: float) -> list[Process]:
    """Waits for what is left below this process to end, then kills it. Returns what had to be killed."""
    until = time.monotonic() + grace
    while True:
        reap_orphans()
        left = descendants(os.getpid())
        if not left:
            return []
        if time.monotonic() >= until:
            break
        time.sleep(0.02)
    killed = left
    while left:
        for process in left:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        time.sleep(0.02)
        reap_orphans()
        left = descendants(os.getpid())
    return killed


def reap_orphans() -> None:
    """Only after every child that was started by subprocess has been waited for."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            continue
    except ChildProcessError:
        return


@dataclass
class Outcome:
    status: int | None  # as subprocess has it; None: killed after the time-out
    out: str
    err: str

    def complaint(self, timeout: float) -> str | None:
        """Why this is not a success, in one line; None if it is one."""
        if self.status == 0:
            return None
        if self.status is None:
            return f"no end within {timeout:g} s"
        for line in self.err.splitlines():
            if line.strip():
                return line.strip()[:300]
        return f"status {self.status}, and nothing on stderr"


def execute(command: list[str], environment: dict[str, str], timeout: float) -> Outcome:
    """Runs a command in / with pipes for its output. Nothing of it is left when this returns."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd="/",
                          env=environment, start_new_session=True) as process:
        status: int | None
        try:
            out, err = process.communicate(timeout=timeout)
            status = process.returncode
        except subprocess.TimeoutExpired:
            status = None
            end_descendants(grace=0)
            out, err = process.communicate()
        except BaseException:
            process.kill()
            raise
    end_descendants(grace=3)
    return Outcome(status, out.decode(errors="replace"), err.decode(errors="replace"))
