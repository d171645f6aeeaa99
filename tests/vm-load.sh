#!/bin/bash
# vm-load.sh RINGFENCE GUEST-PROGRAMS-DIRECTORY [SECONDS [MODE [VCPUS]]]: mixed load in one sandbox on hardware-style
# KVM, in the virtual machine of tools/svm-vm: six loops of guest programs side by side (forks, threads, signals,
# faults, pipes, files), for half an hour if nothing else is said, in ring-0 mode on two vCPUs. It ends clean when no
# program failed, every loop came to its end and the sandbox's status is 0. A sandbox that prints nothing for
# four minutes is taken apart with gdb: every fiber's and every thread's frames.
set -euo pipefail
ringfence=$1 directory=$2 seconds=${3:-1800} mode=${4:-ring0} vcpus=${5:-2}
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
programs="fork threads signals mmap pipes mmap_files file_io mremap poll_select exec descriptors event_fds unix_sockets"
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
      if TMPDIR=$PWD /guest/$name >out 2>&1; then n=$((n + 1)); echo "loop $number: $name"
      else echo "FAIL loop $number: $name: status $?"; cat out; fi
    done; done
  }
  for number in 0 1 2 3 4 5; do one_loop $number "$@" & done
  wait; echo "load ends"'
# shellcheck disable=SC2016
script='
  load=$1 seconds=$2 mode=$3 vcpus=$4; shift 4
  ringfence run --platform kvm --kvm-mode $mode --vcpus $vcpus --stats -- /bin/sh -c "$load" load $seconds "$@" \
    >/tmp/out 2>/tmp/err </dev/null &
  pid=$! size=-1 still=0 told=1
  while kill -0 $pid 2>/dev/null; do
    sleep 5
    now=$(wc -c </tmp/out)
    if [ $now = $size ]; then still=$((still + 1)); else still=0; fi
    size=$now
    if [ $((told % 12)) = 0 ]; then echo "$(cut -d. -f1 /proc/uptime): $(grep -c : /tmp/out) programs, $(grep -c ^FAIL /tmp/out) failed"; fi
    told=$((told + 1))
    if [ $still = 48 ]; then
      echo "no progress; last lines:"; tail -n 12 /tmp/out; cat /tmp/err; ps -T 2>/dev/null || ps
      for t in /proc/$pid/task/*; do echo $t; cat $t/stat $t/wchan $t/syscall; echo; done
      timeout 600 gdb -p $pid -batch -ex "source /fibers.gdb" -ex "thread apply all bt 30" -ex fibers 2>&1
      kill -9 $pid; exit 1
    fi
  done
  wait $pid; status=$?
  grep -A40 -e ^FAIL -e "^load ends" -e "loop . ends" /tmp/out
  cat /tmp/err
  echo "status $status, $(grep -c "^loop .: " /tmp/out) programs run, $(grep -c ^FAIL /tmp/out) failed"
  [ $status = 0 ] && [ $(grep -c "loop . ends" /tmp/out) = 6 ] && ! grep -q ^FAIL /tmp/out'
# shellcheck disable=SC2086 — a list of words
exec timeout $((seconds + 1500)) "$top/tools/svm-vm" --timeout $((seconds + 1400)) --with gdb "${files[@]}" -- \
  sh -c "$script" vm "$load" "$seconds" "$mode" "$vcpus" $programs
