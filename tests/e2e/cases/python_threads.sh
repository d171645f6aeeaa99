# timeout: 120
# needs: python3
# Python's threads, locks, queues, timers, and the executor.
/usr/bin/python3 - <<'END'
import concurrent.futures, queue, threading, time
total = 0
lock = threading.Lock()
def add(n):
    global total
    for _ in range(n):
        with lock:
            total += 1
threads = [threading.Thread(target=add, args=(20000,)) for _ in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
print(total)
q, out = queue.Queue(maxsize=5), []
def consume():
    while (x := q.get()) is not None:
        out.append(x * x)
workers = [threading.Thread(target=consume) for _ in range(3)]
[w.start() for w in workers]
for i in range(100): q.put(i)
for _ in workers: q.put(None)
[w.join() for w in workers]
print(sorted(out) == [i * i for i in range(100)])
with concurrent.futures.ThreadPoolExecutor(10) as pool:
    print(sum(pool.map(lambda x: (time.sleep(0.01), x)[1], range(100))))
event, seen = threading.Event(), []
threading.Timer(0.1, event.set).start()
print(event.wait(10))
cond, turn = threading.Condition(), [0]
def take(me):
    for _ in range(20):
        with cond:
            cond.wait_for(lambda: turn[0] % 3 == me)
            seen.append(me); turn[0] += 1; cond.notify_all()
ts = [threading.Thread(target=take, args=(i,)) for i in range(3)]
[t.start() for t in ts]; [t.join() for t in ts]
print(seen == [0, 1, 2] * 20)
barrier = threading.Barrier(4); order = []
def meet(i):
    time.sleep(i * 0.01); order.append("before"); barrier.wait(); order.append("after")
ts = [threading.Thread(target=meet, args=(i,)) for i in range(4)]
[t.start() for t in ts]; [t.join() for t in ts]
print(order)
END
