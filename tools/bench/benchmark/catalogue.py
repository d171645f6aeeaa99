"""The rows: what is measured, and what it is called."""
from __future__ import annotations

import os
from fnmatch import fnmatchcase

from .jobs import Idle, Job, Operation, Program, same_number
from .report import Row

OPERATIONS = "Operations inside a running sandbox"
PROGRAMS = "Programs inside a running sandbox"
WHOLE = "Whole runs: start of the sandbox to its end"
IDLE = "An idle sandbox"

# (name in the measuring program, title, its options)
_OPERATIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("null", "null system call (getppid)", ()),
    ("read_zero", "read 1 byte of /dev/zero", ()),
    # A sandbox's vDSO may need some seconds to calibrate its clock, and asks the kernel until then.
    ("clock", "clock_gettime", ("--settle", "4")),
    ("stat", "stat", ()),
    ("open_close", "open + close", ()),
    ("pread_4k", "pread 4 KiB", ()),
    ("pwrite_4k", "pwrite 4 KiB", ()),
    ("create_unlink", "create + close + unlink", ()),
    ("epoll", "epoll_wait, one ready", ()),
    ("pipe", "pipe ping-pong, processes", ()),
    ("futex", "futex ping-pong, threads", ()),
    ("signal", "signal to oneself", ()),
    ("mmap", "mmap + touch + munmap", ()),
    ("fault", "page fault", ()),
    ("touch_64m", "touch 64 MiB", ()),
    ("thread", "thread create + join", ()),
    ("fork_exit", "fork + exit + wait", ()),
    ("fork_exec", "fork + exec + wait", ()),
    ("cpu", "CPU-bound loop", ("--round-ms", "100")),
)


def _script(text: str) -> tuple[str, ...]:
    """With $1 the input directory, and $2 a new directory for files, which is the current one."""
    before = 'export TMPDIR="$2"; rm -rf "$2" && mkdir "$2" && cd "$2" || exit; '
    return ("/bin/bash", "-o", "pipefail", "-c", before + text, "bash", "@WORK@", "@SCRATCH@")


def _program(name: str, title: str, argv: tuple[str, ...], **options: object) -> Program:
    return Program(argv, Row(f"run.{name}", WHOLE, title, "ns"), Row(name, PROGRAMS, title, "ns"),
                   **options)  # type: ignore[arg-type]


def _programs() -> list[Job]:
    compile_all = ('for f in "$1"/src/[%s]*.c; do gcc -O1 -c "$f" || exit; done; '
                   'gcc -o program ./*.o && sha256sum <program')
    insert = 'sqlite3 inserts.db <"$1"/%s && ls -A | wc -l'
    return [
        Program(("/bin/true",), Row("run.true", WHOLE, "true", "ns"), repeat=5),
        _program("python3", "python3 -c pass", ("python3", "-c", "pass"), needs=("python3",), repeat=3),
        _program("find", "find", _script("find /usr | wc -l"), needs=("bash", "find"), check=same_number,
                 quick_argv=_script("find /usr/include | wc -l")),
        _program("tar", "tar", _script("tar -cf - -C /usr include | wc -c"), needs=("bash", "tar"),
                 check=same_number, quick_argv=_script("tar -cf - -C /usr/include linux | wc -c")),
        _program("compile", "C compile", _script(compile_all % "0-7"), needs=("bash", "gcc"),
                 quick_argv=_script(compile_all % "01")),
        _program("sqlite", "sqlite inserts", _script(insert % "inserts.sql"), needs=("bash", "sqlite3"),
                 quick_argv=_script(insert % "few_inserts.sql")),
    ]


def _idle(wanted: frozenset[str]) -> Idle:
    return Idle(Row("idle_pss", IDLE, "resident memory, sum of PSS", "bytes"),
                Row("idle_rss", IDLE, "resident memory, sum of RSS", "bytes"),
                Row("idle_cpu", IDLE, "CPU time, part of one core", "percent"), wanted)


def jobs(patterns: list[str]) -> list[Job]:
    """The jobs that measure the rows which one of the globs fits. Raises ValueError for a glob that fits nothing."""
    found: list[Job] = [Operation(Row(name, OPERATIONS, title, "ns"), options) for name, title, options in _OPERATIONS]
    found += _programs()
    idle_names = [row.name for row in _idle(frozenset(("idle_pss", "idle_rss", "idle_cpu"))).rows]
    names = [row.name for job in found for row in job.rows] + idle_names
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise ValueError(f"no row is called {pattern!r}; --list shows them")

    def wanted(name: str) -> bool:
        return any(fnmatchcase(name, pattern) for pattern in patterns)

    chosen = [job for job in found if any(wanted(row.name) for row in job.rows)]
    # The long look at CPU time is a job of its own: it happens in one round only.
    memory = frozenset(name for name in idle_names if wanted(name) and name != "idle_cpu")
    cpu = frozenset(name for name in idle_names if wanted(name) and name == "idle_cpu")
    return chosen + [_idle(names) for names in (memory, cpu) if names]


def rows(chosen: list[Job]) -> list[Row]:
    """Of all the jobs, group by group."""
    found = [row for job in chosen for row in job.rows]
    order = (OPERATIONS, PROGRAMS, WHOLE, IDLE)
    return sorted(found, key=lambda row: order.index(row.group))


def write_inputs(work: str) -> None:
    """The sources that are compiled and the statements that sqlite executes; the same at each run."""
    os.mkdir(f"{work}/src")
    for number in range(8):
        with open(f"{work}/src/{number}.c", "w", encoding="utf-8") as file:
            file.write(_source(number))
    for name, count in (("inserts.sql", 2000), ("few_inserts.sql", 200)):
        with open(f"{work}/{name}", "w", encoding="utf-8") as file:
            file.write("CREATE TABLE t (id INTEGER PRIMARY KEY, name TEXT, value REAL);\n")
            # A transaction each: a journal file is made, written, synced and removed.
            file.writelines(f"INSERT INTO t VALUES ({i}, 'name {i}', {i * 0.5});\n" for i in range(count))
            file.write("SELECT count(*), sum(value) FROM t;\n")


def _source(number: int) -> str:
    lines = ["#include <stdio.h>", "#include <stdlib.h>", "#include <string.h>", "#include <math.h>", "#include <time.h>",
             "#include <unistd.h>", "#include <sys/stat.h>", ""]
    for i in range(60):
        lines.append(f"unsigned f{number}_{i}(unsigned x, const char* s) {{")
        lines.append(f"  unsigned sum = x * {i + 3}u;")
        lines.append(f"  for (size_t k = 0; k < strlen(s); k++) sum = sum * 31u + (unsigned char)s[k] + {i}u;")
        lines.append(f'  char text[64]; snprintf(text, sizeof text, "%u", sum); return sum ^ (unsigned)atoi(text);')
        lines.append("}")
    if number == 0:  # it is linked with any number of the others
        lines.append('int main(void) { printf("%u\\n", f0_0(1, "text")); }')
    return "\n".join(lines) + "\n"
