# Temporary files, renames and links as programs use them to save files safely.
cd "$TMPDIR" || exit 1
for i in 1 2 3; do echo "version $i" > file.tmp && sync file.tmp && mv file.tmp file; done; cat file
cp /etc/passwd copy && echo added >> copy && diff /etc/passwd copy
ln -s file link && echo through >> link && cat file && sed -i s/version/edited/ link && [ ! -L link ] && echo replaced
flock file -c 'echo locked'; mktemp -u XXXXXX | wc -c; mktemp -d dXXX > /dev/null && ls -d d??? | wc -l
echo changed 2>/dev/null > /etc/ringfence-e2e-test && cat /etc/ringfence-e2e-test && rm /etc/ringfence-e2e-test; ls /etc/ringfence-e2e-test 2>/dev/null; echo $?
