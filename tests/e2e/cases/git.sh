# timeout: 180
# needs: git
# git: init, commit, branch, merge, log, gc, clone.
cd "$TMPDIR" || exit 1
export GIT_AUTHOR_DATE='2024-01-01T00:00:00Z' GIT_COMMITTER_DATE='2024-01-01T00:00:00Z' GIT_CONFIG_NOSYSTEM=1 HOME=$TMPDIR
git config --global user.name Name; git config --global user.email name@example.org; git config --global init.defaultBranch main
git init -q repo && cd repo || exit 1
for i in $(seq 1 50); do mkdir -p d$((i % 5)); seq $i > d$((i % 5))/f$i; done
git add . && git commit -qm 'First' && git log --format='%H %s'
git checkout -qb topic; echo more >> d1/f1; git commit -qam 'Second'; git checkout -q main; echo other >> d2/f2; git commit -qam 'Third'
git merge -q --no-edit topic; git log --oneline --graph | cat
git diff --stat HEAD~1 | cat; git status --short; git ls-files | wc -l; git rev-parse HEAD
git gc -q && git count-objects -v | grep -E '^(count|packs)'; git fsck --strict 2>/dev/null; echo "fsck $?"
git clone -q . ../clone && git -C ../clone rev-parse HEAD; git tag v1; git archive v1 | tar t | wc -l
git blame d1/f1 | tail -n 1 | cut -c1-8; git stash list; git show --format=%s HEAD:d2/f2 | tail -n 1
