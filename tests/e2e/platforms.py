#!/usr/bin/env python3
"""platforms.py RINGFENCE [TEST...]: how `--platform=auto` chooses, what doctor says about it, and the file in which the
measurement is kept.

The choice between platforms that both work is in src/platform/choice_test.cc; here /dev/kvm is hidden.
"""
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import unittest

RINGFENCE = os.path.abspath(sys.argv[1])
PATIENCE = 60  # seconds for a machine under load

# What hides the device; nothing where there is none to hide.
HIDE = ["unshare", "-rm", "sh", "-c", 'mount -t tmpfs none /dev && exec "$@"', "sh"] if os.path.exists("/dev/kvm") else []


def can_hide():
    return subprocess.run([*HIDE, "true"], capture_output=True).returncode == 0


@unittest.skipUnless(can_hide(), "user namespaces are not to be had, and /dev/kvm is there")
class WithoutKvm(unittest.TestCase):
    def setUp(self):
        self.home = tempfile.mkdtemp(prefix="platforms-")
        self.addCleanup(shutil.rmtree, self.home)
        self.file = os.path.join(self.home, ".cache/ringfence/platforms")

    def ringfence(self, *arguments, **variables):
        environment = {"PATH": os.environ["PATH"], "HOME": self.home} | variables
        return subprocess.run([*HIDE, RINGFENCE, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=PATIENCE, env={k: v for k, v in environment.items() if v is not None})

    def doctor(self, *said, **variables):
        """Its line about the choice."""
        result = self.ringfence("doctor", **variables)
        self.assertEqual(result.returncode, 0, result.stdout)
        self.assertRegex(result.stdout, r"(?m)^warn  kvm .*there is no /dev/kvm")
        self.assertRegex(result.stdout, r"(?m)^ok    trap ")
        self.assertIn("Ready: a sandbox can run here.", result.stdout)
        line = re.search(r"(?m)^ok    --platform=auto .*$", result.stdout)
        self.assertTrue(line, result.stdout)
        self.assertRegex(line[0], r" trap; a system call takes trap [0-9.]+ us \(")
        for words in said:
            self.assertIn(words, line[0])
        return line[0]

    def runs(self, **variables):
        result = self.ringfence("run", "--", "echo", "ran", **variables)
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "ran\n", ""))

    def test_auto_is_trap_and_silent(self):
        self.runs()
        self.assertEqual(os.listdir(self.home), [])  # one platform: nothing to measure
        result = self.ringfence("run", "--platform=auto", "--", "echo", "ran")
        self.assertEqual((result.returncode, result.stdout, result.stderr), (0, "ran\n", ""))

    def test_kvm_says_why_not(self):
        result = self.ringfence("run", "--platform=kvm", "true")
        self.assertEqual(result.returncode, 125)
        self.assertIn("ringfence: there is no /dev/kvm: load the module", result.stderr)
        result = self.ringfence("run", "--kvm-mode=ring0", "true")  # which asks for it as well
        self.assertEqual(result.returncode, 125)
        self.assertIn("ringfence: there is no /dev/kvm", result.stderr)

    def test_doctor_measures_once(self):
        self.doctor("measured now, and kept in " + self.file)
        self.assertEqual(stat.S_IMODE(os.stat(self.file).st_mode), 0o600)
        self.assertEqual(os.listdir(os.path.dirname(self.file)), ["platforms"])
        first = self.doctor("measured earlier; remove " + self.file)
        self.assertEqual(self.doctor(), first)
        os.remove(self.file)
        self.doctor("measured now")

    def test_cache_directory(self):
        cache = os.path.join(self.home, "elsewhere")
        self.doctor(f"kept in {cache}/ringfence/platforms", XDG_CACHE_HOME=cache)
        self.doctor("kept in " + self.file, XDG_CACHE_HOME="relative")

    def test_without_a_cache(self):
        self.doctor("measured now, and not kept: neither XDG_CACHE_HOME nor HOME", HOME=None)
        self.doctor("measured now, and not kept", HOME="/proc")
        self.doctor("measured now, and not kept", HOME=os.path.join(self.home, "missing"))
        self.runs(HOME=None)

    def test_another_boot_or_build(self):
        self.doctor("measured now")
        with open(self.file, encoding="utf-8") as file:
            text = file.read()
        for part in ("boot ", "build ", "uid "):
            with open(self.file, "w", encoding="utf-8") as file:
                file.write(text.replace(part, part + "1"))
            self.doctor("measured now")

    def test_hostile_files(self):
        os.makedirs(self.file)  # a directory
        self.doctor("measured now, and not kept: cannot write")
        self.runs()
        os.rmdir(self.file)
        os.mkfifo(self.file)
        self.doctor("measured now, and kept")
        for content in (b"", b"\0" * 100, b"\xff" * 100000, b"kvm 1\n", os.urandom(3000)):
            with open(self.file, "wb") as file:
                file.write(content)
            self.doctor("measured now, and kept")
        victim = os.path.join(self.home, "victim")
        with open(victim, "w", encoding="utf-8") as file:
            file.write("kept")
        os.remove(self.file)
        os.symlink(victim, self.file)
        self.doctor("measured now, and kept")
        with open(victim, encoding="utf-8") as file:
            self.assertEqual(file.read(), "kept")
        os.chmod(os.path.dirname(self.file), 0o777)  # others may write there
        os.remove(self.file)
        self.doctor("measured now, and not kept")


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[2:]], verbosity=2)
