# timeout: 120
# needs: python3
# Python: hashlib, json, subprocess, files, regular expressions, exceptions.
cd "$TMPDIR" || exit 1
/usr/bin/python3 - <<'END'
import collections, datetime, decimal, glob, hashlib, io, json, math, os, random, re, shutil, struct, subprocess, sys, tempfile, zlib
print(sys.version_info[:2], sys.platform)
print(hashlib.sha256(b"x" * 1000000).hexdigest(), hashlib.blake2b(b"abc").hexdigest()[:16])
data = {"list": list(range(10)), "nested": {"a": None, "b": [True, 1.5, "\u00e9"]}}
text = json.dumps(data, sort_keys=True)
print(text, json.loads(text) == data)
with open("data.json", "w") as f:
    json.dump([data] * 1000, f)
print(os.path.getsize("data.json"), len(json.load(open("data.json"))))
print(subprocess.run(["echo", "from a child"], capture_output=True, text=True).stdout.strip())
print(subprocess.run("exit 5", shell=True).returncode, subprocess.run(["sh", "-c", "kill -9 $$"]).returncode)
p = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
print(len(p.communicate(b"y" * 300000)[0]))
try:
    subprocess.run(["sleep", "10"], timeout=0.2)
except subprocess.TimeoutExpired:
    print("timed out")
try:
    subprocess.run(["/does/not/exist"])
except FileNotFoundError as e:
    print(e.errno, e.filename)
random.seed(7)
print([random.randrange(100) for _ in range(5)], math.sin(1.0), decimal.Decimal(1) / 7, 2 ** 200)
print(re.findall(r"(\w)(\d+)", "a1 b22 c333"), collections.Counter("mississippi").most_common(2))
print(zlib.crc32(zlib.decompress(zlib.compress(b"z" * 100000))), struct.pack("<IhQ", 1, -2, 3).hex())
with tempfile.TemporaryDirectory() as d:
    for i in range(20):
        open(os.path.join(d, f"f{i}"), "w").write(str(i))
    print(sorted(os.path.basename(p) for p in glob.glob(d + "/f1*")), sum(e.stat().st_size for e in os.scandir(d)))
print(datetime.datetime.fromtimestamp(0, datetime.timezone.utc).isoformat(), os.path.exists(d))
try:
    1 / 0
except ZeroDivisionError as e:
    print(type(e).__name__, e)
sys.exit(3)
END
