# timeout: 240
# The host's /usr is seen whole and as it is.
find /usr | wc -l
find /usr -xdev -printf '%p %y %m %s %l\n' | LC_ALL=C sort | sha256sum
find /usr/share -name '*.txt' -type f -size +1k | wc -l
