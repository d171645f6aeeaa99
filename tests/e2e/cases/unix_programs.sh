# needs: python3 perl
# Programs that talk over AF_UNIX sockets underneath: multiprocessing's managers and listeners, asyncio, perl.
cd "$TMPDIR" || exit 1
cat > managers.py <<'PY'
import multiprocessing as mp, os, sys
from multiprocessing import resource_sharer, reduction
from multiprocessing.connection import Client, Listener
def square(x): return x * x
def passer(connection):
    r, w = os.pipe()
    connection.send(reduction.DupFd(w)); os.close(w)
    print("passed:", os.read(r, 100).decode(), flush=True)
def main():
    for method in "fork", "forkserver":
        context = mp.get_context(method)
        with context.Pool(3) as pool: print(method, sum(pool.map(square, range(100))))
        with context.Manager() as manager:
            shared = manager.dict()
            p = context.Process(target=shared.update, args=({"a": [1, 2]},)); p.start(); p.join()
            print(method, dict(shared), p.exitcode)
    with Listener(family="AF_UNIX", authkey=b"key") as listener:
        pid = os.fork()
        if pid == 0:
            with Client(listener.address, authkey=b"key") as c: c.send({"n": 1}); print(c.recv(), flush=True)
            os._exit(0)
        with listener.accept() as c: print(c.recv(), flush=True); c.send([1] * 5)
        os.waitpid(pid, 0)
    ours, theirs = mp.Pipe()
    p = mp.Process(target=passer, args=(theirs,)); p.start()
    w = ours.recv().detach(); os.write(w, b"a descriptor"); os.close(w); p.join()
if __name__ == "__main__": main()
PY
/usr/bin/python3 managers.py
/usr/bin/python3 - <<'PY'
import asyncio, os, socket
async def main():
    async def handle(r, w):
        while line := await r.readline(): w.write(line.upper()); await w.drain()
        w.close()
    server = await asyncio.start_unix_server(handle, "async.sock")
    async def client(i):
        r, w = await asyncio.open_unix_connection("async.sock")
        for k in range(10): w.write(b"c%d-%d\n" % (i, k)); await w.drain(); line = await r.readline()
        w.close(); await w.wait_closed()
        return line
    print(await asyncio.gather(*[client(i) for i in range(20)]))
    server.close()
    loop = asyncio.get_running_loop()
    a, b = socket.socketpair(); a.setblocking(False); b.setblocking(False)
    data = bytes(range(256)) * 8000
    async def receive():
        got = bytearray()
        while len(got) < len(data): got += await loop.sock_recv(b, 1 << 16)
        return bytes(got) == data
    print((await asyncio.gather(loop.sock_sendall(a, data), receive()))[1])
    child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    out, _ = await child.communicate(b"x" * 300000); print(len(out), child.returncode)
asyncio.run(main())
PY
perl - <<'PL'
use strict; use IO::Socket::UNIX; use Socket; use IO::Select; $| = 1;
my $l = IO::Socket::UNIX->new(Type => SOCK_STREAM, Local => "perl.sock", Listen => 5) or die "listen: $!";
my $pid = fork // die;
if (!$pid) {
  for my $i (1 .. 5) { my $c = IO::Socket::UNIX->new(Type => SOCK_STREAM, Peer => "perl.sock") or die; print $c "line $i\n"; $c->flush; print "got ", scalar <$c>; }
  exit 7;
}
for (1 .. 5) { my $s = $l->accept; my $x = <$s>; print $s uc $x }
waitpid $pid, 0; print "status ", $? >> 8, "\n";
my $a = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => "a"); my $b = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => "b", Peer => "a");
$b->send("hey"); my $from = $a->recv(my $text, 100); print "$text ", unpack_sockaddr_un($from), " ", scalar(IO::Select->new($a)->can_read(0)) // 0, "\n";
print IO::Socket::UNIX->new(Peer => "nobody") ? "connected" : "not: $!", "\n";
print join(" ", (getpwnam "root")[0, 2]), "\n";
PL
