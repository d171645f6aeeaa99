# Here-documents, here-strings, arrays, arithmetic, globs, functions.
cd "$TMPDIR" || exit 1
shopt -s extglob
name=world
cat <<END
hello $name $((6 * 7)) $(echo sub)
END
cat <<'END'
literal $name
END
cat <<-END
	stripped of tabs
	END
cat <<< "a here-string"
a=(one "two words" three); a[5]=six
echo "${#a[@]} ${!a[@]} ${a[1]}"
declare -A m=([k]=v [x]=y); for k in k x; do echo "$k=${m[$k]}"; done
s=filename.tar.gz; echo "${s%.*} ${s%%.*} ${s#*.} ${s/file/FILE} ${s^^} ${#s} ${s:4:4}"
touch a1 a2 b1; echo a* [ab]1 missing*; shopt -s nullglob; echo none*; echo !(a1)
[[ abc123 =~ ([a-z]+)([0-9]+) ]] && echo "${BASH_REMATCH[1]} ${BASH_REMATCH[2]}"
fact() { (($1 <= 1)) && echo 1 || echo $(($1 * $(fact $(($1 - 1))))); }; fact 10
printf '%05.2f|%-5s|%x|%q\n' 3.14159 ab 255 'a b'
IFS=: read -r x y z <<< "1:2:3"; echo "$z$y$x"
mapfile -t lines < <(seq 3); echo "${lines[@]}"
echo $((2 ** 40 % 1000)) $((0x1f)) $((1 ? 2 : 3)) $((~5))
select_like() { local -n ref=$1; ref=changed; }; v=old; select_like v; echo $v
