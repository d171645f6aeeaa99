# shell: busybox sh
# needs: busybox
# A static program: busybox's shell and its own tools.
cd "$TMPDIR" || exit 1
i=0
while [ $i -lt 5 ]; do echo line $i; i=$((i + 1)); done | busybox sort -r | busybox head -n 3
f() { local x=$1; echo "f $x $#"; return 4; }
f a b c; echo "returned $?"
case hello in h*o) echo matched ;; *) echo no ;; esac
for w in one "two three"; do echo "[$w]"; done
busybox mkdir -p d/e && busybox touch d/e/f && busybox find d | busybox sort
busybox seq 1 100 | busybox awk '{ s += $1 } END { print s }'
busybox printf 'a:b:c\n' | busybox cut -d: -f2
echo text > file; busybox cp file copy; busybox cmp file copy && echo same
(exit 3); echo "subshell $?"
busybox sleep 0; busybox date -u -d @0 +%Y
trap 'echo bye' EXIT
exit 5
