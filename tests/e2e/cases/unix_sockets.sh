# needs: python3
# Programs that talk over named sockets.
cd "$TMPDIR" || exit 1
/usr/bin/python3 - <<'END'
import os, selectors, socket, socketserver, threading
class Handler(socketserver.StreamRequestHandler):
    def handle(self):
        for line in self.rfile: self.wfile.write(line.upper())
class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer): daemon_threads = True
server = Server("s", Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
for i in range(20):
    c = socket.socket(socket.AF_UNIX); c.connect("s"); c.sendall(b"hello %d\n" % i); print(c.makefile().readline().strip()); c.close()
a, b = socket.socketpair()
r, w = os.pipe()
socket.send_fds(a, [b"x"], [w]); os.close(w)
msg, fds, _, _ = socket.recv_fds(b, 10, 1)
os.write(fds[0], b"through a passed descriptor"); os.close(fds[0]); print(msg, os.read(r, 100))
sel = selectors.DefaultSelector(); sel.register(b, selectors.EVENT_READ)
print(sel.select(0)); a.send(b"!"); print(len(sel.select(5)), type(sel).__name__)
END
