# timeout: 300
# memory: 1400M
# 500 MB written, and its checksum.
cd "$TMPDIR" || exit 1
yes 'a line of some text to fill the file with, forty-eight bytes' | head -c 500000000 > big
stat -c %s big
sha256sum big
tail -c 100 big | od -c | head -n 2
rm big; ls
