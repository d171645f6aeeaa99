# Traps, background jobs, wait, signals between processes.
cd "$TMPDIR" || exit 1
trap 'echo usr1' USR1
kill -USR1 $$
sleep 30 & pid=$!
kill $pid; wait $pid; echo "killed $?"
(sleep 0.1; exit 7) & wait $!; echo "status $?"
{ for i in 1 2 3 4; do (sleep 0.$i; echo job $i) & done; wait; } | sort; echo all done
(trap 'echo child got term; exit 9' TERM; : >ready; while :; do sleep 0.05; done) & pid=$!
while ! [ -e ready ]; do sleep 0.05; done; kill -TERM $pid; wait $pid; echo "term $?"
wait -n 2>/dev/null; echo "nothing to wait for $?"
{ sleep 0.1; echo late; } & echo early; wait
(sleep 0.1; kill -USR1 $$) & sleep 0.5; wait
timeout 0.2 sleep 10; echo "timeout $?"
coproc cat; echo through >&"${COPROC[1]}"; read -r back <&"${COPROC[0]}"; echo "$back"; kill "$COPROC_PID"
wait 2>/dev/null
set -m; sleep 20 & kill -STOP %1; sleep 0.1; jobs -s | awk '{print $2}'; kill -CONT %1; kill %1; wait %1 2>/dev/null; set +m
sh -c 'kill -SEGV $$'; echo "segv $?"
trap 'echo exit trap' EXIT
echo end
