# timeout: 180
# needs: python3
# Python's multiprocessing: pools, queues, pipes, shared memory, locks; os.fork, mmap, signal.
cd "$TMPDIR" || exit 1
cat > work.py <<'END'
import mmap, multiprocessing as mp, os, signal, sys, time
from multiprocessing import shared_memory
def square(x): return x * x
def put(q, n): q.put((n, os.getpid() != os.getppid()))
def count(value, lock):
    for _ in range(500):
        with lock: value.value += 1
def echo(c):
    while (x := c.recv()) != "stop": c.send(x[::-1])
def main():
    with mp.Pool(4) as pool:
        print(pool.map(square, range(20)), pool.apply(square, (12,)))
    q = mp.Queue()
    ps = [mp.Process(target=put, args=(q, i)) for i in range(5)]
    [p.start() for p in ps]
    print(sorted(q.get() for _ in ps)); [p.join() for p in ps]
    print([p.exitcode for p in ps])
    value, lock = mp.Value("i", 0), mp.Lock()
    ps = [mp.Process(target=count, args=(value, lock)) for _ in range(4)]
    [p.start() for p in ps]; [p.join() for p in ps]
    print(value.value)
    a, b = mp.Pipe()
    p = mp.Process(target=echo, args=(b,)); p.start()
    a.send("hello"); print(a.recv()); a.send("stop"); p.join()
    shm = shared_memory.SharedMemory(create=True, size=4096)
    pid = os.fork()
    if pid == 0:
        shm.buf[:5] = b"child"; os._exit(4)
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), bytes(shm.buf[:5]))
    shm.close(); shm.unlink()
    with mp.get_context("spawn").Pool(2) as pool:
        print(pool.map(square, [3, 4]))
    with open("mapped", "wb") as f: f.write(b"0" * 10000)
    with open("mapped", "r+b") as f:
        m = mmap.mmap(f.fileno(), 0); m[100:105] = b"hello"; m.flush(); print(m.find(b"hello"), len(m)); m.close()
    print(open("mapped", "rb").read()[98:107])
    m = mmap.mmap(-1, 4096); m.write(b"before")
    if (pid := os.fork()) == 0:
        m[0:6] = b"after!"; os._exit(0)
    os.waitpid(pid, 0); print(m[0:6])
    got = []
    signal.signal(signal.SIGALRM, lambda s, f: got.append(s))
    signal.setitimer(signal.ITIMER_REAL, 0.05); signal.pause(); print(got)
    signal.signal(signal.SIGUSR1, lambda s, f: got.append("usr1"))
    os.kill(os.getpid(), signal.SIGUSR1); print(got)
    r, w = os.pipe()
    if (pid := os.fork()) == 0:
        signal.signal(signal.SIGTERM, lambda s, f: os._exit(77)); os.write(w, b"r")
        while True: time.sleep(1)
    os.read(r, 1); os.kill(pid, signal.SIGTERM); print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
if __name__ == "__main__":
    main()
END
/usr/bin/python3 work.py
