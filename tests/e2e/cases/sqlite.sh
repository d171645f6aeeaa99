# timeout: 120
# needs: sqlite3
# A database file in WAL mode, with several processes.
cd "$TMPDIR" || exit 1
sqlite3 db 'pragma journal_mode=wal; create table t(id integer primary key, name text, n int); create index i on t(n);'
{ echo 'begin;'; for i in $(seq 1 2000); do echo "insert into t(name, n) values('name $i', $((i * 7 % 100)));"; done; echo 'commit;'; } | sqlite3 db
sqlite3 db 'select count(*), sum(n), max(name) from t; select n, count(*) from t group by n order by n limit 5; pragma integrity_check;'
for w in 1 2 3; do (for i in $(seq 1 20); do sqlite3 -cmd '.timeout 20000' db "insert into t(name, n) values('w$w', $i)"; done) & done; wait
sqlite3 db "select name, count(*) from t where name like 'w_' group by name order by name;"
sqlite3 db 'begin; delete from t; rollback; select count(*) from t; pragma wal_checkpoint(truncate); vacuum; pragma integrity_check;'
ls; sqlite3 db 'select name, n from t order by name, n;' | sha256sum
