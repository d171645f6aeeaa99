#!/usr/bin/env python3
"""many.py RINGFENCE PLATFORM [COUNT]: that many sandboxes (100) live at the same time, and each answers."""
import os
import re
import subprocess
import sys
import time

RINGFENCE, PLATFORM = os.path.abspath(sys.argv[1]), sys.argv[2]
COUNT = int(sys.argv[3]) if len(sys.argv) > 3 else 100
SCRIPT = "echo up; read x; echo answer $x $((x * 7)); read x; exit $((x % 50))"


def memory_of(pids):
    """KiB, shared pages by shares, of the processes and their children."""
    total = 0
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
                parent = int(file.read().rpartition(")")[2].split()[1])
            if int(pid) in pids or parent in pids:
                with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as file:
                    total += int(re.search(r"(?m)^Pss:\s+(\d+)", file.read())[1])
        except (OSError, TypeError):
            pass
    return total


def main():
    if PLATFORM == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("skipped: /dev/kvm is missing or may not be opened")
        return 77
    begin = time.monotonic()
    sandboxes = [subprocess.Popen([RINGFENCE, "run", "--platform", PLATFORM, "--memory", "64M", "sh", "-c", SCRIPT],
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
                 for _ in range(COUNT)]
    bad = []
    for i, s in enumerate(sandboxes):
        if s.stdout.readline() != "up\n":
            bad.append(f"{i} did not start")
    up = time.monotonic()
    memory = memory_of({s.pid for s in sandboxes})
    for i, s in enumerate(sandboxes):
        s.stdin.write(f"{i}\n")
    for i, s in enumerate(sandboxes):
        if s.stdout.readline() != f"answer {i} {i * 7}\n":
            bad.append(f"{i} did not answer")
    answered = time.monotonic()
    for i, s in enumerate(sandboxes):
        s.stdin.write(f"{i}\n")
        s.stdin.close()
    for i, s in enumerate(sandboxes):
        if s.wait() != i % 50:
            bad.append(f"{i} ended with status {s.returncode}")
    print(f"{COUNT} sandboxes: up in {up - begin:.2f} s, answered in {answered - up:.2f} s, "
          f"ended in {time.monotonic() - answered:.2f} s; {memory / 1024 / COUNT:.1f} MiB each")
    print("\n".join(bad), end="")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
