# timeout: 400
# needs: tar
# A tree copied through two tars is the same tree.
cd "$TMPDIR" || exit 1
mkdir copy
tar c -C /usr include | tar x -C copy; echo "${PIPESTATUS[@]}"
diff -r --no-dereference /usr/include copy/include && echo same
# What a directory's size says is the file system's own business.
(cd copy && find include \( -type d -printf '%p %y %m %T@\n' -o -printf '%p %y %m %s %T@ %l\n' \) | LC_ALL=C sort) | sed 's/\.[0-9]*\( \|$\)/\1/' | sha256sum
tar czf x.tgz copy/include/linux && tar tzf x.tgz | wc -l
rm -r copy; ls
