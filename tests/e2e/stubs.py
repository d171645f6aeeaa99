#!/usr/bin/env python3
"""stubs.py RINGFENCE [TEST...]: the host processes of a sandbox on the trap platform: what they have and may do, and what
becomes of the sandbox and the host when one of them is killed.
"""
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import unittest

RINGFENCE = os.path.abspath(sys.argv[1])
PATIENCE = 60  # seconds for a machine under load
STUB_START, STUB_END = 0x700000000000, 0x700090000000

# Processes that sleep, that run, and threads of both kinds.
GUEST = """
import os, threading, time
def spin():
    while True: pass
for body in (spin, lambda: time.sleep(1000), lambda: time.sleep(1000)):
    threading.Thread(target=body, daemon=True).start()
for _ in range(2):
    if os.fork() == 0: time.sleep(1000)
if os.fork() == 0: spin()
print("up", flush=True)
time.sleep(1000)
"""


def read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


class Process:
    """One of the host's, and which one it is: numbers come back."""
    def __init__(self, pid):
        self.pid = pid
        self.name, rest = re.match(r"\d+ \((.*)\) (.*)", read(f"/proc/{pid}/stat"), re.S).groups()
        fields = rest.split()
        self.state, self.parent, self.session, self.start = fields[0], int(fields[1]), int(fields[3]), fields[19]

    def status(self, name, thread=None):
        place = f"/proc/{self.pid}/task/{thread}/status" if thread else f"/proc/{self.pid}/status"
        return re.search(rf"(?m)^{name}:\s*(.*)$", read(place))[1]

    def threads(self):
        return sorted(map(int, os.listdir(f"/proc/{self.pid}/task")))


def processes(fits):
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            process = Process(int(pid))
        except (AttributeError, OSError):  # it ended
            continue
        if process.state not in "ZX" and fits(process):
            found.append(process)
    return sorted(found, key=lambda p: int(p.start))


def named_things():
    """What a sandbox could leave on the host by name."""
    names = set()
    for directory in ("/dev/shm", "/run/netns", "/var/run/netns", tempfile.gettempdir()):
        if os.path.isdir(directory):
            names |= {f"{directory}/{n}" for n in os.listdir(directory) if "ringfence" in n or directory.endswith("netns")}
    return names, read("/proc/self/mounts")


def until(condition, patience=PATIENCE):
    deadline = time.monotonic() + patience
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


class Test(unittest.TestCase):
    def start(self, *command):
        sandbox = subprocess.Popen([RINGFENCE, "run", "--platform", "trap", *(command or ("python3", "-c", GUEST))],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(sandbox.stdout.close)
        self.addCleanup(sandbox.stderr.close)
        self.addCleanup(sandbox.wait)
        self.addCleanup(sandbox.kill)
        self.assertEqual(sandbox.stdout.readline(), "up\n", sandbox.stderr.read() if sandbox.poll() else "")
        return sandbox

    def stubs_of(self, sandbox, count=5):
        """The zygote, and the others."""
        until(lambda: len(processes(lambda p: p.parent == sandbox.pid)) >= count)
        zygote, *stubs = processes(lambda p: p.parent == sandbox.pid)
        self.assertGreaterEqual(len(stubs), count - 1)
        return zygote, stubs


class Look(Test):
    def test_what_they_may_do(self):
        sandbox = self.start()
        zygote, stubs = self.stubs_of(sandbox)
        for stub in [zygote, *stubs]:
            self.assertEqual(stub.name, "ringfence-stub")
            self.assertEqual(stub.session, zygote.pid)  # not the terminal's
            for name in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                self.assertEqual(int(stub.status(name), 16), 0)
            for thread in stub.threads():
                self.assertEqual(stub.status("NoNewPrivs", thread), "1")
                self.assertEqual(stub.status("Seccomp", thread), "2")
                # The manager has the manager's filter; who runs guest code, its own as well.
                self.assertEqual(stub.status("Seccomp_filters", thread), "1" if thread == stub.pid else "2")
        self.assertEqual(zygote.threads(), [zygote.pid])

    def test_what_they_map(self):
        sandbox = self.start()
        zygote, stubs = self.stubs_of(sandbox)
        seen = set()
        for stub in [zygote, *stubs]:
            areas = 0
            for line in read(f"/proc/{stub.pid}/maps").splitlines():
                place, rights, offset, _, _, *name = line.split(maxsplit=5)
                start, end = (int(x, 16) for x in place.split("-"))
                name = name[0] if name else ""
                if name == "[vsyscall]":  # the kernel's, the same for all
                    continue
                self.assertEqual(rights[3], "s", line)  # nothing private: no memory of the sentry's was left
                if start < STUB_START:
                    self.assertLessEqual(end, STUB_START, line)
                    self.assertNotEqual(stub, zygote, line)  # has no guest
                    self.assertNotIn("ringfence-stubs", name, line)
                    continue
                self.assertLessEqual(end, STUB_END, line)
                self.assertIn("ringfence-stubs", name, line)
                if "w" in rights:
                    self.assertNotIn("x", rights, line)
                    areas += end - start
                    # An Area is one process's alone.
                    for area in range(int(offset, 16), int(offset, 16) + end - start, 0x10000):
                        self.assertNotIn(area, seen, line)
                        seen.add(area)
            self.assertGreater(areas, 0)

    def test_the_guest_does_not_see_them(self):
        script = """
import os
print("up", flush=True)
input()
pids = sorted(int(p) for p in os.listdir("/proc") if p.isdigit())
found = [p for p in os.environ["HOST"].split() if os.path.exists("/proc/" + p)]
sent = []
for p in os.environ["HOST"].split():
    try: os.kill(int(p), 0); sent.append(p)
    except ProcessLookupError: pass
print(pids == [os.getpid()], found, sent, flush=True)
"""
        # It learns the host's numbers when they are known: by its stdin.
        script = script.replace("input()", "host = input()").replace('os.environ["HOST"]', "host")
        sandbox = subprocess.Popen([RINGFENCE, "run", "--platform", "trap", "python3", "-c", script],
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.assertEqual(sandbox.stdout.readline(), "up\n")
        zygote, stubs = self.stubs_of(sandbox, 2)
        numbers = [str(p) for p in (sandbox.pid, zygote.pid, *(s.pid for s in stubs))]
        out, _ = sandbox.communicate(" ".join(numbers) + "\n", timeout=PATIENCE)
        self.assertEqual((out, sandbox.returncode), ("True [] []\n", 0))


class Killed(Test):
    """With SIGKILL, from outside."""

    def setUp(self):
        self.before = named_things()

    def kill(self, choose, thread=None):
        sandbox = self.start()
        zygote, stubs = self.stubs_of(sandbox)
        victim = choose(sandbox, zygote, stubs)
        if thread is None:
            os.kill(victim, signal.SIGKILL)
        else:
            os.kill(thread(victim), signal.SIGKILL)  # its process ends with it
        status = sandbox.wait(PATIENCE)
        self.nothing_left(zygote)
        return status, sandbox.stderr.read(), victim

    def nothing_left(self, zygote):
        # All that came of the zygote is in its session.
        self.assertTrue(until(lambda: not processes(lambda p: p.session == zygote.pid or p.parent == zygote.pid), 20),
                        "stub processes are left")
        self.assertEqual(named_things(), self.before)

    def says_so(self, result):
        status, said, victim = result
        self.assertEqual(status, 125, said)
        self.assertRegex(said, rf"(?m)^ringfence: .*process that runs guest code \({victim}\) was ended from outside: signal 9$")

    def test_zygote(self):
        self.says_so(self.kill(lambda sandbox, zygote, stubs: zygote.pid))

    def test_every_stub(self):
        for number in range(4):
            self.says_so(self.kill(lambda sandbox, zygote, stubs, number=number: stubs[number].pid))

    def test_thread_of_a_stub(self):
        self.says_so(self.kill(lambda sandbox, zygote, stubs: stubs[0].pid,
                               thread=lambda pid: sorted(map(int, os.listdir(f"/proc/{pid}/task")))[-1]))

    def test_sentry(self):
        for _ in range(3):
            status, _, _ = self.kill(lambda sandbox, zygote, stubs: sandbox.pid)
            self.assertEqual(status, -signal.SIGKILL)

    def test_sentry_while_it_starts(self):
        for delay in (0.002, 0.005, 0.01, 0.02, 0.05, 0.1):
            sandbox = subprocess.Popen([RINGFENCE, "run", "--platform", "trap", "sleep", "1000"], stdin=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL)
            time.sleep(delay)
            children = processes(lambda p, sandbox=sandbox: p.parent == sandbox.pid)
            sandbox.kill()
            self.assertEqual(sandbox.wait(PATIENCE), -signal.SIGKILL)
            # The zygote may have been made in between, too: it ends by itself, having another parent.
            for child in children:
                self.assertTrue(until(lambda child=child: not processes(lambda p: (p.pid, p.start) == (child.pid, child.start)), 20))
        self.assertEqual(named_things(), self.before)

    def test_launcher_of_the_launcher(self):
        # Whoever started ringfence dies: the sandbox is nobody's business but its own, and goes on until it is told.
        shell = subprocess.Popen(["sh", "-c", f'"{RINGFENCE}" run --platform trap sh -c "echo up; exec sleep 1000"; :'],
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        self.addCleanup(shell.stdout.close)
        self.assertEqual(shell.stdout.readline(), "up\n")
        sentry, = processes(lambda p: p.parent == shell.pid)
        zygote, *_ = processes(lambda p: p.parent == sentry.pid)
        shell.kill()
        shell.wait(PATIENCE)
        os.kill(sentry.pid, signal.SIGTERM)
        self.nothing_left(zygote)
        self.assertTrue(until(lambda: not processes(lambda p: (p.pid, p.start) == (sentry.pid, sentry.start))))

    def test_ends_by_itself(self):
        sandbox = self.start("sh", "-c", "sleep 1000 & sleep 1000 & echo up; sleep 0.5; exit 3")
        zygote, *_ = processes(lambda p: p.parent == sandbox.pid)
        self.assertEqual(sandbox.wait(PATIENCE), 3)
        self.nothing_left(zygote)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]], verbosity=2)
