# Most of coreutils, on files of its own.
cd "$TMPDIR" || exit 1
umask 022
mkdir -p a/b/c; touch a/x a/b/y; ln -s x a/link; ln a/x a/hard
stat -c '%n %F %a %h %s' a a/x a/link a/hard a/b
ls -1F a; ls -R a
seq 20 > numbers; head -n 3 numbers; tail -n 2 numbers; tac numbers | head -n 1; wc numbers; nl numbers | tail -n 1
sort -rn numbers | head -n 2; shuf -i 1-10 | sort -n | tr '\n' ' '; echo
cut -c1 numbers | sort | uniq -c; paste -d, <(seq 3) <(seq 4 6); join <(printf '1 a\n2 b\n') <(printf '1 x\n2 y\n')
comm -12 <(seq 5) <(seq 3 8); split -l 7 numbers part-; ls part-*; cat part-* | cmp - numbers && echo split ok
dd if=numbers of=copy bs=3 skip=1 2>/dev/null; cmp copy <(tail -c +4 numbers) && echo dd ok
cp -a a z; diff -r a z && echo cp ok; mv z y; rm -r y; ls
md5sum numbers; sha1sum numbers; cksum numbers; base64 numbers | head -n 1; od -An -tx1 numbers | head -n 1
chmod 640 numbers; stat -c %a numbers; touch -d '2001-02-03 04:05:06 UTC' numbers; TZ=UTC stat -c '%y' numbers
date -u -d '2024-02-29 12:00 UTC' +%s; expr 6 \* 7; factor 123456; seq -s, 1 0.5 3; numfmt --to=iec 1048576
truncate -s 1M big; stat -c %s big; du --apparent-size -k big | cut -f1
readlink -f a/link | sed 's|.*/a/|a/|'; realpath --relative-to=. a/b/../x; basename /x/y.z .z; dirname /x/y
mkfifo pipe; (echo via fifo > pipe &) ; cat pipe
tee t1 t2 < numbers > /dev/null; cmp t1 t2 && echo tee ok
env -i A=1 B=2 env | sort; printenv HOME; id -u; whoami; tty < /dev/null; nice echo nice; test -x /bin/sh && echo executable
fold -w 10 <<< "a long line to fold somewhere"; expand <<< $'a\tb'; fmt -w 20 <<< "words that are to be filled into lines"
install -m 755 numbers installed; stat -c %a installed; pathchk -p ok; unlink installed; sync; true && ! false && echo logic
echo a b c | xargs -n1 echo item; ls /nonexistent 2>/dev/null; echo "ls $?"; cat missing 2>/dev/null; echo "cat $?"
