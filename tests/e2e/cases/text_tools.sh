# timeout: 180
# grep -r, sed and awk over a real tree.
cd "$TMPDIR" || exit 1
grep -r --include='*.h' -l 'EINVAL' /usr/include | LC_ALL=C sort
grep -rc 'define' /usr/include/linux 2>/dev/null | LC_ALL=C sort | sha256sum
grep -rhoE '\b[A-Z]{8,}\b' /usr/include/x86_64-linux-gnu/sys | LC_ALL=C sort | uniq -c | sort -rn | head -n 20 | awk '{print $1}'
sed -n 's/^#define[[:space:]]*\(E[A-Z0-9]*\)[[:space:]]*\([0-9]*\).*/\2 \1/p' /usr/include/asm-generic/errno-base.h
sed -e '1,/\*\//d' -e 's/\t/ /g' -e '/^$/d' /usr/include/asm-generic/errno.h | head -n 5
awk -F: '{ n[$7]++ } END { for (s in n) print s, n[s] }' /etc/passwd | sort
awk 'BEGIN { for (i = 1; i <= 5; i++) { x = x " " i * i; print substr(x, 2), length(x) } printf "%.3f %d %s\n", atan2(0, -1), 7.9, toupper("up") }'
seq 10 > f; sed -i '/5/d; s/1/one/' f; cat f
find /usr/include -name '*.h' | xargs cat | awk 'length($0) > m { m = length($0) } END { print NR, m }'
