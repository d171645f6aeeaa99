#!/usr/bin/env python3
"""terminal.py [PREFIX...]: drives programs at a terminal as a user would: ^C, ^Z, fg, background jobs, window sizes.

Each dialogue runs natively first, to prove the expectations right, and then with PREFIX ("ringfence run --") before
the command. What happens outside of the command, in the shell that started it, is part of what is tested.
"""
import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time

PROMPT = "ready> "
SHELL = ["env", f"PS1={PROMPT}", "bash", "--norc", "--noprofile", "-i"]
SKIPPED = 77
PATIENCE = 20.0  # seconds for a machine under load


def set_window_size(fd, rows, columns):
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))


class Dialogue:
    def __init__(self, command):
        environment = {"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": "/"}
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            set_window_size(0, 24, 500)  # no line is wrapped
            os.execvpe(command[0], command, environment)
        self.command = command
        self.seen = ""

    def fail(self, why):
        sys.exit(f"{' '.join(self.command)}: {why}; seen so far: {self.seen!r}")

    def read(self, deadline):
        if not select.select([self.fd], [], [], max(deadline - time.monotonic(), 0))[0]:
            return None
        try:
            return os.read(self.fd, 4096).decode(errors="replace")
        except OSError:  # EIO: the other side is closed
            return ""

    def expect(self, pattern):
        """Waits until what was printed since the last match has the pattern; returns what came before it."""
        deadline = time.monotonic() + PATIENCE
        while not (found := re.search(pattern, self.seen)):
            data = self.read(deadline)
            if not data:
                self.fail(f"no {pattern!r}" + (" in time" if data is None else " until its end"))
            self.seen += data
        before = self.seen[: found.start()]
        self.seen = self.seen[found.end() :]
        return before

    def send(self, text):
        os.write(self.fd, text.encode())

    def say(self, line, *patterns):
        """Types a line at the prompt, waits for the patterns in what it prints, then for the prompt."""
        self.send(line + "\n")
        self.expect(re.escape(line) + r"\r\n")
        for pattern in patterns:
            self.expect(pattern)
        return self.expect(re.escape(PROMPT))

    def start(self, line):
        """Types a line at the prompt and waits until what it starts says "up": before, the terminal is the shell's."""
        self.send(line + "\n")
        self.expect(re.escape(line) + r"\r\nup\r\n")

    def bring_to_foreground(self, surely):
        """Types fg. Natively a program that ^Z is only just stopping may still read the line; then it is typed again.

        Gives a pattern for what cat may have read so, and puts out after the next line's echo.
        """
        self.send("fg\n")
        if not surely and not select.select([self.fd], [], [], PATIENCE / 2)[0]:
            self.send("fg\n")
        self.expect(r"fg\r\n[^\n]*\n")
        return "" if surely else r"(fg\r\n)?"

    def interrupt(self, key, *patterns):
        """Types a control character at a program that is in the foreground."""
        self.send(key)
        for pattern in patterns:
            self.expect(pattern)
        self.expect(re.escape(PROMPT))

    def end(self, status):
        deadline = time.monotonic() + PATIENCE
        while data := self.read(deadline):
            self.seen += data
        while (ended := os.waitpid(self.pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                self.fail("does not end")
            time.sleep(0.01)
        os.close(self.fd)
        if os.waitstatus_to_exitcode(ended[1]) != status:
            self.fail(f"wait status {ended[1]:#x}, exit status {status} was to be expected")


def a_shell_controls_its_jobs(prefix):
    d = Dialogue(prefix + SHELL)
    if greeting := d.expect(re.escape(PROMPT)):
        d.fail(f"a shell that is not at ease: {greeting!r}")
    d.say("tty", r"/dev/(pts/\d+|tty|console)\r\n")
    sleep = "sh -c 'echo up; exec sleep 100'"
    d.start(sleep + "; echo not reached")
    d.interrupt("\x03", r"\^C")
    d.say("echo status $?", r"status 130\r\n")
    d.start(sleep)
    d.interrupt("\x1a", rf"Stopped +{sleep}")
    d.say("jobs", rf"Stopped +{sleep}")
    d.send("fg\n")
    d.expect(rf"fg\r\n{sleep}\r\n")
    time.sleep(0.3)
    d.interrupt("\x03", r"\^C")
    d.say("cat & wait %1; jobs", r"Stopped +cat")
    d.send("fg\n")
    d.expect(r"fg\r\ncat\r\n")
    d.send("hello\n")
    d.expect("hello\r\nhello\r\n")
    d.interrupt("\x04")
    d.say("sleep 100 &", r"\[1\] \d+")
    d.say("kill %1; sleep 0.3", r"Terminated")
    d.say("stty tostop; echo x & wait %1; jobs", r"Stopped +(stty tostop; )?echo x")
    d.say("stty -tostop; kill %1; fg >/dev/null")
    d.start("sh -c 'trap \"stty size; exit\" WINCH; echo up; while :; do sleep 0.1; done'")
    set_window_size(d.fd, 41, 123)
    d.expect(r"41 123\r\n")
    d.expect(re.escape(PROMPT))
    d.send("exit 7\n")
    d.end(7)


def the_command_stops_and_goes_on_with_its_starter(prefix):
    d = Dialogue(SHELL)
    d.expect(re.escape(PROMPT))
    for command in ("sh -c 'echo up; exec cat'", "sh -c 'echo up; cat; exit 3'"):
        d.start(" ".join(prefix + [command]))
        d.send("one\n")
        d.expect("one\r\none\r\n")
        d.interrupt("\x1a", r"\^Z[^$]*Stopped")
        read_before = d.bring_to_foreground(surely=bool(prefix))
        d.send("two\n")
        d.expect(f"two\r\n{read_before}two\r\n")
        d.interrupt("\x04")
        d.say("echo status $?", f"status {3 if 'exit' in command else 0}\r\n")
    # In the background it stops when it reads, and reads on when it is brought to the foreground.
    line = " ".join(prefix + ["cat"])
    d.say(line + " &", r"\[1\] \d+")
    d.say("wait %1; jobs", "Stopped")
    read_before = d.bring_to_foreground(surely=bool(prefix))
    d.send("three\n")
    d.expect(f"three\r\n{read_before}three\r\n")
    d.interrupt("\x03", r"\^C")
    d.say("echo status $?", r"status 130\r\n")
    d.send("exit\n")
    d.end(0)


def settings_left_behind_are_put_back(prefix):
    if not prefix:
        return  # natively they stay
    d = Dialogue(SHELL)
    d.expect(re.escape(PROMPT))
    d.say("before=$(stty -a); " + " ".join(prefix + ["sh -c 'stty raw -echo; kill -KILL $$'"]))
    d.say('[ "$before" = "$(stty -a)" ] && echo as before', r"as before\r\n")
    d.send("exit\n")
    d.end(0)


def a_hangup_ends_it(prefix):
    d = Dialogue(prefix + ["sh", "-c", "echo up; exec sleep 1000"])
    d.expect("up\r\n")
    os.close(d.fd)
    deadline = time.monotonic() + PATIENCE
    while (ended := os.waitpid(d.pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > deadline:
            os.kill(d.pid, signal.SIGKILL)
            d.fail("survives its terminal")
        time.sleep(0.01)
    if os.waitstatus_to_exitcode(ended[1]) not in (-signal.SIGHUP, 128 + signal.SIGHUP):
        d.fail(f"wait status {ended[1]:#x} instead of SIGHUP")


def main():
    prefix = sys.argv[1:]
    if "kvm" in prefix and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        print("skipped: /dev/kvm is missing or may not be opened")
        sys.exit(SKIPPED)
    for dialogue in (a_shell_controls_its_jobs, the_command_stops_and_goes_on_with_its_starter,
                     settings_left_behind_are_put_back, a_hangup_ends_it):
        for where in [[], prefix] if prefix else [[]]:
            print(f"{dialogue.__name__}, {'sandbox' if where else 'native'}", flush=True)
            dialogue(where)


main()
