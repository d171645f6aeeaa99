# Pipelines, process substitution, subshells, redirections.
cd "$TMPDIR" || exit 1
echo hello | tr a-z A-Z | rev
seq 1 1000 | grep 7 | wc -l
yes | head -n 5 | sort | uniq -c
false | true; echo "${PIPESTATUS[@]} $?"
set -o pipefail; false | true; echo $?; set +o pipefail
diff <(seq 1 5) <(seq 1 2 9); echo "diff $?"
seq 5 | tee >(wc -l > count) > copy; sleep 0.2; cat count; cmp copy <(seq 5) && echo same
(cd / && pwd); [ "$PWD" = "$TMPDIR" ] && echo here
x=outer; (x=inner; echo $x); echo $x
{ echo grouped; echo more >&2; } 2>/dev/null
exec 3>out; echo to three >&3; exec 3>&-; cat out
echo in > in; read -r line < in; echo "$line"
for i in $(seq 1 50); do echo $i; done | (total=0; while read -r n; do total=$((total + n)); done; echo $total)
printf '%s\n' "$(echo nested "$(echo substitution)")"
seq 100000 | awk '{s+=$1} END {print s}'
head -c 1000000 /dev/zero | wc -c
cat /dev/null | cat | cat; echo "empty $?"
