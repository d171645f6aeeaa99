#!/usr/bin/env python3
"""errors.py RINGFENCE PLATFORM [TEST...]: what the launcher does when something is missing, wrong or in the way.

Every failure of Ringfence itself is status 125 and a line on stderr that says what failed, on what, and what to do.
"""
import ctypes
import errno
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

RINGFENCE = os.path.abspath(sys.argv[1])
PLATFORM = sys.argv[2]
PATIENCE = 60  # seconds for a machine under load
MARK = f"RINGFENCE_TEST={os.getpid()}".encode()
os.environb[MARK.partition(b"=")[0]] = MARK.partition(b"=")[2]


def ringfence(*arguments, before=None, **more):
    """Runs it to its end. `before` runs in the child before ringfence does."""
    more = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    return subprocess.run([RINGFENCE, *arguments], preexec_fn=before, timeout=PATIENCE, text=True, **more)


def run(*arguments, **more):
    return ringfence("run", "--platform", PLATFORM, *arguments, **more)


def forbid_call(number, error):
    """A seccomp filter under which the call fails with the error."""
    class Instruction(ctypes.Structure):
        _fields_ = [("code", ctypes.c_ushort), ("jt", ctypes.c_ubyte), ("jf", ctypes.c_ubyte), ("k", ctypes.c_uint)]

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.POINTER(Instruction))]

    load, jump_if_equal, give = 0x20, 0x15, 0x06
    filters = (Instruction * 4)(Instruction(load, 0, 0, 0), Instruction(jump_if_equal, 0, 1, number),
                                Instruction(give, 0, 0, 0x50000 | error), Instruction(give, 0, 0, 0x7fff0000))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_privileges, set_seccomp, filter_mode = 38, 22, 2
    if libc.prctl(no_new_privileges, 1, 0, 0, 0) or libc.prctl(
            set_seccomp, filter_mode, ctypes.byref(Program(4, filters)), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def in_namespace(script, *command):
    """The command in a user and mount namespace of its own, after the script has changed the mounts."""
    return subprocess.run(["unshare", "-rm", "sh", "-c", f'{script}\nexec "$@"', "sh", *command],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE)


def namespaces_work():
    return shutil.which("unshare") and in_namespace("mount -t tmpfs none /dev", "true").returncode == 0


HAS_KVM = os.access("/dev/kvm", os.R_OK | os.W_OK)


def traces():
    """What a sandbox could leave behind on the host: processes, which inherit our mark; mounts; named memory."""
    with open("/proc/self/mounts", encoding="utf-8") as mounts:
        mounted = mounts.read()
    processes = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as environment:
                if MARK in environment.read().split(b"\0") and int(pid) != os.getpid():
                    processes.add(pid)
        except OSError:
            pass
    shared = {name for name in os.listdir("/dev/shm") if "ringfence" in name}
    return mounted, processes, shared


class Test(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.mkdtemp(prefix="errors-")
        self.addCleanup(shutil.rmtree, self.directory)

    def file(self, name, content, mode=0o755):
        path = os.path.join(self.directory, name)
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, mode)
        return path

    def fails(self, result, status, *said):
        self.assertEqual(result.returncode, status, result.stderr)
        for words in said:
            self.assertIn(words, result.stderr)
        self.assertTrue(result.stderr.startswith("ringfence: "), result.stderr)

    def works(self, result, out=None):
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        if out is not None:
            self.assertEqual(result.stdout, out)


class Host(Test):
    """What the host does not offer; the doctor says the same."""

    def doctor_says(self, result, *said):
        self.assertEqual(result.returncode, 1)
        for words in said:
            self.assertRegex(result.stdout, f"BAD  .*{words}")

    def doctor_warns(self, result, *said):
        """Of a platform that does not work where the other does."""
        self.assertEqual(result.returncode, 0, result.stdout)
        for words in said:
            self.assertRegex(result.stdout, f"warn  .*{words}")
        self.assertRegex(result.stdout, "ok    --platform=auto +trap; ")

    @unittest.skipUnless(namespaces_work(), "user namespaces are not to be had")
    def test_no_device(self):
        hide = "mount -t tmpfs none /dev"
        said = "there is no /dev/kvm: load the module"
        self.fails(in_namespace(hide, RINGFENCE, "run", "--platform", "kvm", "true"), 125, said)
        self.doctor_warns(in_namespace(hide, RINGFENCE, "doctor"), said)

    @unittest.skipUnless(namespaces_work(), "user namespaces are not to be had")
    @unittest.skipUnless(os.path.exists("/dev/kvm"), "there is no /dev/kvm to put something over")
    def test_no_permission_for_the_device(self):
        hide = f"mount --bind {self.file('kvm', b'', 0)} /dev/kvm"
        plain = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", RINGFENCE]
        said = "no permission to open /dev/kvm: add yourself to its group"
        self.fails(in_namespace(hide, *plain, "run", "--platform", "kvm", "true"), 125, said)
        self.doctor_warns(in_namespace(hide, *plain, "doctor"), said)

    @unittest.skipUnless(namespaces_work(), "user namespaces are not to be had")
    @unittest.skipUnless(os.path.exists("/dev/kvm"), "there is no /dev/kvm to put something over")
    def test_another_device_in_its_place(self):
        hide = "mount --bind /dev/null /dev/kvm"
        said = "this is not Linux's KVM"
        self.fails(in_namespace(hide, RINGFENCE, "run", "--platform", "kvm", "true"), 125, said)
        self.doctor_warns(in_namespace(hide, RINGFENCE, "doctor"), said)

    @unittest.skipUnless(namespaces_work(), "user namespaces are not to be had")
    def test_platform_without_a_device(self):
        if PLATFORM == "kvm":
            self.skipTest("the platform needs its device")
        for hide in ("umount /dev/kvm 2>/dev/null; [ ! -e /dev/kvm ] || mount --bind /dev/null /dev/kvm",
                     "mount -t tmpfs none /dev"):
            self.works(in_namespace(hide, RINGFENCE, "run", "--platform", PLATFORM, "echo", "ran"), "ran\n")

    def test_no_io_uring(self):
        io_uring_setup = 425
        for error, said in ((errno.ENOSYS, "older than 6.0"), (errno.EPERM, "seccomp filter or security module")):
            def forbid(error=error):
                forbid_call(io_uring_setup, error)
            self.fails(run("true", before=forbid), 125, "io_uring is not usable", said)
            self.doctor_says(ringfence("doctor", before=forbid), said)

    def test_limits(self):
        def hard(which, value):
            return lambda: resource.setrlimit(which, (value, value))

        def soft(which, value):
            return lambda: resource.setrlimit(which, (value, resource.getrlimit(which)[1]))

        for which, value, said in ((resource.RLIMIT_NOFILE, 20, "open files limited to 20"),
                                   (resource.RLIMIT_AS, 1 << 30, "address space limited to"),
                                   (resource.RLIMIT_FSIZE, 1 << 20, "file size limited to")):
            self.fails(run("true", before=hard(which, value)), 125, said, "ulimit -H")
            self.doctor_says(ringfence("doctor", before=hard(which, value)), said.split(" limited")[0])
            if resource.getrlimit(which)[1] == resource.RLIM_INFINITY or which == resource.RLIMIT_NOFILE:
                self.works(run("echo", "ran", before=soft(which, value)), "ran\n")
        self.fails(run("true", before=hard(resource.RLIMIT_DATA, 1 << 20)), 125, "ulimit -Hd")
        self.works(run("true", before=hard(resource.RLIMIT_STACK, 64 << 10)))
        if os.geteuid() == 0:  # whom the limit does not concern
            self.works(run("true", before=hard(resource.RLIMIT_MEMLOCK, 0)))
        else:
            self.fails(run("true", before=hard(resource.RLIMIT_MEMLOCK, 0)), 125, "locked-memory limit (ulimit -l)")

    @unittest.skipUnless(HAS_KVM, "the doctor is never content without KVM")
    def test_doctor_is_content(self):
        result = ringfence("doctor")
        self.assertEqual(result.returncode, 0, result.stdout)
        self.assertIn("Ready: a sandbox can run here.", result.stdout)


class Options(Test):
    def test_wrong_values(self):
        for arguments, said in ((["--platform", "x86"], "'x86' is no platform: give auto, kvm or trap"),
                                (["--overlay", "disk"], "'disk' is no overlay: give memory or none"),
                                (["--volume", "relative"], "'relative' is not a volume: give HOST:GUEST[:ro]"),
                                (["--user", "root"], "'root' is not a user: give UID or UID:GID"),
                                (["--memory", "many"], "'many' is not a size: give a number"),
                                (["--memory", "1"], "--memory is too small"),
                                (["--timeout", "soon"], "'soon' is not a duration: give a positive number"),
                                (["--vcpus", "0"], "--vcpus"),
                                (["--log-level", "loud"], "levels are"),
                                (["--no-such-option"], "--no-such-option")):
            self.fails(ringfence("run", *arguments, "true"), 125, said)
        self.fails(ringfence("run"), 125, "no command to run", "usage:")
        self.fails(ringfence("frobnicate"), 125, "there is no 'frobnicate'")

    def test_places_that_are_not_there(self):
        missing = os.path.join(self.directory, "missing")
        for arguments, said in ((["--root", missing], f"cannot use {missing}"),
                                (["--root", "/etc/passwd"], "/etc/passwd is not a directory"),
                                (["--volume", f"{missing}:/mnt"], f"cannot use {missing}"),
                                (["--cwd", missing], f"cannot enter {missing}"),
                                (["--cwd", "/etc/passwd"], "cannot enter /etc/passwd"),
                                ([f"--strace={missing}/trace"], f"{missing}/trace"),
                                (["--log", "/proc/no/log"], "cannot open the log file")):
            self.fails(run(*arguments, "true"), 125, said)


class Commands(Test):
    """126 and 127, and what they say."""

    def test_missing(self):
        self.fails(run("no-such-command"), 127, "no-such-command: command not found in the sandbox's PATH")
        self.fails(run("/no/such/command"), 127, "cannot run /no/such/command: No such file or directory")
        self.fails(run(self.file("script", b"#!/no/interpreter\n")), 127, "the interpreter that it names")
        self.fails(run(""), 127, "command not found")

    def test_not_executable(self):
        self.fails(run(self.file("data", b"text", 0o644)), 126, "Permission denied", "executable by the user")
        self.fails(run("/usr"), 126, "cannot run /usr")
        self.fails(run("--user", "12345", self.file("mine", b"#!/bin/sh\n", 0o700)), 126, "Permission denied")

    def test_broken_programs(self):
        with open("/bin/true", "rb") as file:
            good = file.read()

        def patched(offset, data):
            return good[:offset] + data + good[offset + len(data):]

        phoff = struct.unpack_from("<Q", good, 32)[0]
        broken = {
            "empty": b"", "text": b"echo not a script\n", "magic": b"\x7fELF", "header": good[:64],
            "arm": patched(18, b"\xb7"),
            "an object file": patched(16, b"\x01"), "no headers": patched(56, b"\0\0"),
            "headers of another size": patched(54, b"\x20"), "headers past the end": patched(32, b"\xff" * 6),
            "too many headers": patched(56, b"\xff\xff"), "a script without a name": b"#!\n",
        }
        for name, content in broken.items():
            with self.subTest(name):
                self.fails(run(self.file(name, content)), 126, "Exec format error", "no 64-bit x86 ELF program")
        # These get past the header: any end will do, but the sandbox's own failure.
        for offset in range(phoff, phoff + 56 * 13, 8):
            for word in (b"\xff" * 8, b"\0" * 8, struct.pack("<Q", 1 << 47), struct.pack("<Q", 0x1001)):
                result = run(self.file("segments", patched(offset, word)))
                self.assertNotIn(result.returncode, (125, -signal.SIGSEGV, -signal.SIGABRT), (offset, word, result))
        self.fails(run(self.file("itself", f"#!{self.directory}/itself\n".encode())), 126, "Too many levels")


class Streams(Test):
    def test_full_disk(self):
        with open("/dev/full", "wb") as full:
            self.assertEqual(run("sh", "-c", "echo text || exit 7", stdout=full).returncode, 7)

    def test_closed(self):
        for redirection, command, out in (("0<&-", "cat 2>&1 | head -c 4; [ -e /proc/self/fd/0 ] || echo none", "cat:"),
                                          ("1>&-", "echo x 2>/dev/null || echo told >&2", "told"),
                                          ("2>&-", "echo y; echo x >&2 || echo told", "y\ntold")):
            result = subprocess.run(["sh", "-c", 'r=$0 p=$1 c=$2; eval "exec $3"; exec "$r" run --platform "$p" sh -c "$c"',
                                     RINGFENCE, PLATFORM, command, redirection], capture_output=True, text=True,
                                    timeout=PATIENCE, stdin=subprocess.DEVNULL)
            self.assertIn(out, result.stdout + result.stderr, redirection)

    def test_reader_that_goes_away(self):
        result = subprocess.run(["bash", "-c", '"$0" run --platform "$1" yes | head -n 1; echo ${PIPESTATUS[0]}', RINGFENCE,
                                 PLATFORM], capture_output=True, text=True, timeout=PATIENCE, stdin=subprocess.DEVNULL)
        self.assertEqual(result.stdout, f"y\n{128 + signal.SIGPIPE}\n")

    def test_stdin_is_read_only_as_far_as_the_command_does(self):
        result = subprocess.run(["bash", "-c", 'printf "one\\ntwo\\n" > f; { "$0" run --platform "$1" head -n 1; cat; } < f',
                                 RINGFENCE, PLATFORM], capture_output=True, text=True, timeout=PATIENCE,
                                cwd=self.directory)
        self.assertEqual(result.stdout, "one\ntwo\n")


class Endings(Test):
    """However a sandbox ends, its status is right and the host is as before."""

    def setUp(self):
        super().setUp()
        self.before = traces()

    def tearDown(self):
        deadline = time.monotonic() + 10
        while (after := traces()) != self.before and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertEqual(after, self.before)

    def start(self, *arguments):
        child = subprocess.Popen([RINGFENCE, "run", "--platform", PLATFORM, *arguments], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.PIPE, text=True)
        self.addCleanup(child.stdout.close)
        self.addCleanup(child.kill)
        self.assertEqual(child.stdout.readline(), "up\n")
        return child

    def test_timeout(self):
        begin = time.monotonic()
        self.fails(run("--timeout", "300ms", "sh", "-c", "sleep 1000 & sleep 1000"), 124, "timed out after 0.3 s")
        self.assertLess(time.monotonic() - begin, 30)
        self.fails(run("--timeout", "300ms", "sh", "-c", "trap '' TERM INT; while :; do :; done"), 124)

    def test_signals_for_the_launcher(self):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
            child = self.start("sh", "-c", "echo up; exec sleep 1000")
            child.send_signal(number)
            self.assertEqual(child.wait(PATIENCE), 128 + number)
        child = self.start("sh", "-c", "trap 'echo trapped; exit 9' TERM; echo up; while :; do sleep 0.05; done")
        child.send_signal(signal.SIGTERM)
        self.assertEqual((child.stdout.readline(), child.wait(PATIENCE)), ("trapped\n", 9))

    def test_kill(self):
        child = self.start("sh", "-c", f"echo x >{self.directory}/inside; sleep 1000 & echo up; while :; do :; done")
        child.kill()
        child.wait(PATIENCE)
        self.assertEqual(os.listdir(self.directory), [])

    def test_first_process_ends_before_the_others(self):
        self.works(run("sh", "-c", "sleep 1000 & yes >/dev/null & echo done"), "done\n")

    def test_no_memory(self):
        grab = "import sys\nx = []\nwhile True: x.append(bytearray(b'1' * (1 << 20)))"
        result = run("--memory", "96M", "sh", "-c", f'python3 -c "{grab}"; echo status $?; echo alive')
        self.assertEqual((result.returncode, result.stdout), (0, "status 137\nalive\n"))
        self.assertEqual(run("--memory", "96M", "python3", "-c", grab).returncode, 137)
        result = run("--memory", "96M", "sh", "-c", "head -c 200M /dev/zero >/tmp/big; echo status $?; rm /tmp/big; "
                     "head -c 20M /dev/zero >/tmp/big && echo fits")
        self.assertEqual(result.stdout, "status 1\nfits\n", result.stderr)

    def test_writes_stay_inside(self):
        path = self.file("kept", b"before\n")
        self.works(run("sh", "-c", f"echo after >{path}; rm -rf {self.directory}; ls {self.directory} 2>&1 | wc -l"), "1\n")
        with open(path, encoding="utf-8") as file:
            self.assertEqual(file.read(), "before\n")
        result = run("--overlay", "none", "sh", "-c", f"echo after >{path}")
        self.assertIn("Read-only file system", result.stderr)

    def test_volumes(self):
        path = self.file("file", b"host\n")
        self.works(run("--volume", f"{self.directory}:/v", "sh", "-c", "echo guest >/v/file; echo new >/v/new"))
        with open(path, encoding="utf-8") as file:
            self.assertEqual(file.read(), "guest\n")
        result = run("--volume", f"{self.directory}:/v:ro", "sh", "-c", "cat /v/new; echo x >/v/file")
        self.assertIn("Read-only file system", result.stderr)
        self.assertEqual(result.stdout, "new\n")


class OrdinaryUser(Test):
    @unittest.skipUnless(os.geteuid() == 0, "only root can become another user")
    def test_runs(self):
        os.chmod(self.directory, 0o755)
        inside = os.path.join(self.directory, "ringfence")  # where everybody may go
        shutil.copy(RINGFENCE, inside)
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]
        if PLATFORM == "kvm":
            # A mount namespace where the device is everybody's.
            open_device = f"""
                rm -f {self.directory}/kvm && mknod -m 666 {self.directory}/kvm c $(stat -c '0x%t 0x%T' /dev/kvm) &&
                mount --bind {self.directory}/kvm /dev/kvm && exec "$@" """
            command = ["unshare", "-m", "sh", "-c", open_device, "sh", *command]

        def as_user(*arguments):
            return subprocess.run([*command, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                                  timeout=PATIENCE)

        if PLATFORM == "kvm" and as_user("test", "-w", "/dev/kvm").returncode != 0:
            self.skipTest("another user cannot be given /dev/kvm here")
        self.works(as_user(inside, "run", "--platform", PLATFORM, "sh", "-c",
                           "id -u; ls /root 2>/dev/null || echo closed; f=$(mktemp); echo x >$f; cat $f; rm -r /usr/bin/env "
                           "2>/dev/null || echo not ours"), "65534\nclosed\nx\nnot ours\n")
        if PLATFORM == "kvm":
            self.assertEqual(as_user(inside, "doctor").returncode, 0)


if __name__ == "__main__":
    if PLATFORM == "kvm" and not HAS_KVM:
        print("skipped: /dev/kvm is missing or may not be opened")
        sys.exit(77)
    unittest.main(argv=[sys.argv[0], *sys.argv[3:]], verbosity=2)
