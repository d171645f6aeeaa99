# Death by a signal is 128 plus its number.
echo before
kill -KILL $$
