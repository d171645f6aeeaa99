"""Facts about the host and the programs, for the record."""
from __future__ import annotations

import os
import platform
import re
import subprocess
from typing import Any


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().strip()
    except OSError:
        return ""


def _field(text: str, key: str) -> str:
    match = re.search(rf"^{re.escape(key)}\s*[:=]\s*(.*)$", text, re.MULTILINE)
    return match.group(1).strip().strip('"') if match else ""


def facts() -> dict[str, Any]:
    cpu = _read("/proc/cpuinfo")
    return {
        "cpu": _field(cpu, "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "virtual machine": "yes" if " hypervisor" in _field(cpu, "flags") else "no",
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "kernel": platform.release(),
        "distribution": _field(_read("/etc/os-release"), "PRETTY_NAME"),
        "clock source": _read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "huge pages": _chosen(_read("/sys/kernel/mm/transparent_hugepage/enabled")),
        "frequency governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or "none",
        "root": os.geteuid() == 0,
        "load average at start": round(os.getloadavg()[0], 2),
    }


def _chosen(choices: str) -> str:
    match = re.search(r"\[(\w+)\]", choices)
    return match.group(1) if match else choices


def version_of(command: list[str]) -> str:
    """The first line that a program prints, or why there is none."""
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"unknown: {error}"
    lines = (done.stdout or done.stderr).splitlines()
    return lines[0].strip() if lines else "unknown"


def versions(top: str, ringfence: str | None, peer: str | None) -> dict[str, str]:
    found = {}
    if ringfence:
        found["ringfence"] = version_of([ringfence, "version"])
        commit = version_of(["git", "-C", top, "describe", "--always", "--dirty"])
        found["checkout"] = commit
    if peer:
        found["runsc"] = version_of([peer, "--version"])
    for program in (["python3", "--version"], ["gcc", "--version"], ["sqlite3", "--version"], ["tar", "--version"]):
        found[program[0]] = version_of(["/usr/bin/env", "PATH=/usr/bin:/bin", *program])
    return found
