#!/bin/bash
# vm-load.sh RINGFENCE GUEST-PROGRAMS-DIRECTORY [SECONDS [MODE [VCPUS]]]: mixed load in one sandbox on hardware-style
# KVM, in the virtual machine of tools/svm-vm: six loops of guest programs side by side (forks, threads, signals,
# faults, pipes, files), for half an hour if nothing else is said, in ring-0 mode on two vCPUs. It ends clean when no
# test failed twice in a row (some are about time, which a busy machine does not keep), every loop came to its end and
# the sandbox's status is 0. When a loop's program takes more than five minutes the sandbox is taken apart with gdb: every
# fiber's and every thread's frames. RF_LOAD_PROGRAMS chooses other programs.
set -euo pipefail
ringfence=$1 directory=$2 seconds=${3:-1800} mode=${4:-ring0} vcpus=${5:-2}
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
programs=${RF_LOAD_PROGRAMS:-fork threads signals mmap pipes mmap_files file_io mremap poll_select exec descriptors \
event_fds unix_sockets}
files=(--file "$ringfence:/usr/local/bin/ringfence" --file "$top/tools/fibers.gdb:/fibers.gdb")
for name in $programs; do files+=(--file "$directory/$name:/guest/$name"); done
# shellcheck disable=SC2016 — the scripts are for the machine's and the sandbox's shells
load='
  end=$(($(cut -d. -f1 /proc/uptime) + $1)); shift
  one_loop() {
    n=0 number=$1; shift
    mkdir -p /tmp/loop$number; cd /tmp/loop$number
    i=0; while [ $i -lt $((number * 2)) ]; do first=$1; shift; set -- "$@" $first; i=$((i + 1)); done
    while :; do for name; do
      [ $(cut -d. -f1 /proc/uptime) -lt $end ] || { echo "loop $number ends after $n programs"; return 0; }
      echo "loop $number: $name"
      n=$((n + 1))
      TMPDIR=$PWD /guest/$name >out 2>&1 && continue
      status=$? failed=$(sed -n "s/^FAIL \([^ ]*\) .*/\1/p" out)
      sed -n "s/^FAIL /late? $name: /p" out
      [ -n "$failed" ] && TMPDIR=$PWD /guest/$name $failed >again 2>&1 && continue
      echo "FAIL loop $number: $name: status $status"; sed -n "s/^FAIL /FAIL   /p" again
    done; done
  }
  for number in 0 1 2 3 4 5; do one_loop $number "$@" & done
  wait; echo "load ends"'
# shellcheck disable=SC2016
script='
  load=$1 seconds=$2 mode=$3 vcpus=$4; shift 4
  ringfence run --platform kvm --kvm-mode $mode --vcpus $vcpus --stats -- /bin/sh -c "$load" load $seconds "$@" \
    >/tmp/out 2>/tmp/err </dev/null &
  pid=$! told=0 failures=0
  for n in 0 1 2 3 4 5; do eval still$n=0 was$n=; done
  while kill -0 $pid 2>/dev/null; do
    sleep 5
    told=$((told + 1))
    grep -E "^(FAIL|late)" /tmp/out | tail -n +$((failures + 1))
    failures=$(grep -cE "^(FAIL|late)" /tmp/out)
    if [ $((told % 12)) = 0 ]; then
      echo "$(cut -d. -f1 /proc/uptime): $(grep -c "^loop .: " /tmp/out) programs, $(grep -c "^FAIL loop" /tmp/out) failed"
    fi
    for n in 0 1 2 3 4 5; do
      last=$(grep -n "^loop $n" /tmp/out | tail -n 1)
      eval was=\$was$n still=\$still$n
      if [ "$last" = "$was" ] && [ "${last#*ends}" = "$last" ]; then still=$((still + 1)); else still=0; fi
      eval was$n=\$last still$n=\$still
      if [ $still = 60 ]; then
        echo "$(cut -d. -f1 /proc/uptime): no progress: ${last#*:}"
        for k in 0 1 2 3 4 5; do grep "^loop $k" /tmp/out | tail -n 1; done
        cat /tmp/err
        for t in /proc/$pid/task/*; do echo "$(cat $t/comm): $(cut -c1-60 $t/syscall)"; done
        timeout 900 gdb -p $pid -batch -ex "source /fibers.gdb" -ex "thread apply all bt 30" -ex fibers 2>&1
        kill -9 $pid; exit 1
      fi
    done
  done
  wait $pid; status=$?
  grep ends /tmp/out
  cat /tmp/err
  echo "status $status, $(grep -c "^loop .: " /tmp/out) programs run, $(grep -c "^FAIL loop" /tmp/out) failed"
  [ $status = 0 ] && [ $(grep -c "loop . ends" /tmp/out) = 6 ] && ! grep -q ^FAIL /tmp/out'
# shellcheck disable=SC2086 — a list of words
exec timeout $((seconds + 2400)) "$top/tools/svm-vm" --timeout $((seconds + 2300)) --with gdb,python3 "${files[@]}" -- \
  sh -c "$script" vm "$load" "$seconds" "$mode" "$vcpus" $programs
