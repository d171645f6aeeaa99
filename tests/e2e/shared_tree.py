#!/usr/bin/env python3
"""shared_tree.py RINGFENCE PLATFORM [TEST...]: a tree that the host changes while the sandbox uses it.

Who is told of a change by the host sees it; who only looks again and again sees it soon.
"""
import os
import subprocess
import sys
import tempfile
import time
import unittest

RINGFENCE = os.path.abspath(sys.argv[1])
PLATFORM = sys.argv[2]

# Asks about the next file, so that the sandbox knows that it is not there; waits for word; asks again.
TOLD = r"""
n=0
while [ $n -lt 300 ]; do
  [ -e $n ]; before=$?
  echo ready
  read line
  [ -e $n ]; echo $before $?
  n=$((n + 1))
done
"""
WAITING = r"until [ -e flag ]; do :; done; [ -e data ] && echo seen"


def start(script, directory):
    return subprocess.Popen([RINGFENCE, "run", "--platform", PLATFORM, "--volume", f"{directory}:/shared", "--",
                             "/bin/bash", "-c", "cd /shared\n" + script],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


class SharedTree(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory(prefix="shared-")
        self.addCleanup(temporary.cleanup)
        self.directory = temporary.name

    def test_a_change_that_one_is_told_of_shows(self):
        with start(TOLD, self.directory) as sandbox:
            for n in range(300):
                self.assertEqual(sandbox.stdout.readline(), "ready\n")
                with open(f"{self.directory}/{n}", "w", encoding="ascii"):
                    pass
                sandbox.stdin.write("it is there\n")
                self.assertEqual(sandbox.stdout.readline(), "1 0\n", f"round {n}")
            self.assertEqual(sandbox.wait(60), 0)

    def test_changes_show_without_a_word_and_in_order(self):
        with start("[ -e data ]; echo ready\n" + WAITING, self.directory) as sandbox:
            self.assertEqual(sandbox.stdout.readline(), "ready\n")
            time.sleep(0.05)
            for name in ("data", "flag"):
                with open(f"{self.directory}/{name}", "w", encoding="ascii"):
                    pass
            self.assertEqual(sandbox.stdout.readline(), "seen\n")
            self.assertEqual(sandbox.wait(60), 0)


if __name__ == "__main__":
    if PLATFORM == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("skipped: /dev/kvm is missing or may not be opened")
        sys.exit(77)
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]])
