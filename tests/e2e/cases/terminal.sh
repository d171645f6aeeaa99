# needs: python3
# A program under a pseudo-terminal of its own sees a terminal.
/usr/bin/python3 - <<'END'
import os, pty, select
def run(command, typed=b""):
    pid, fd = pty.fork()
    if pid == 0:
        os.execvp(command[0], command)
    os.write(fd, typed)
    out = b""
    while True:
        try:
            data = os.read(fd, 1000)
        except OSError:
            break
        if not data:
            break
        out += data
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), out
print(run(["sh", "-c", "test -t 0 && test -t 1 && echo terminal; stty size | wc -w"]))
print(run(["sh", "-c", "read line; echo got $line"], b"typed\n"))
print(run(["cat"], b"abc\n\x04"))
print(run(["sh", "-c", "stty -echo; exit 4"]))
END
