# stderr: compare
# The two output streams stay apart.
echo to stdout
echo to stderr >&2
ls /does-not-exist
ls -d /does-not-exist /usr
