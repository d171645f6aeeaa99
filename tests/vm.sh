#!/bin/bash
# vm.sh RINGFENCE GUEST-PROGRAMS-DIRECTORY NAME...: runs guest programs in sandboxes on hardware-style KVM, in ring-0
# mode and in exit mode, in the virtual machine of tools/svm-vm. One boot for all of them; each has its own time-out
# inside. The machine's CPU is emulated, and not in every corner right (it knows neither alignment checks nor SSE
# exceptions): a program that fails is run there without a sandbox too, and passes if the same cases fail there, for the
# same reasons.
set -euo pipefail
ringfence=$1 directory=$2
shift 2
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
files=(--file "$ringfence:/usr/local/bin/ringfence")
for name in "$@"; do files+=(--file "$directory/$name:/guest/$name"); done
# shellcheck disable=SC2016 — the script is for the machine's shell
script='
  failed=
  for name; do for mode in ring0 exit; do
    timeout 200 ringfence run --platform kvm --kvm-mode $mode --vcpus 2 -- /guest/$name >/tmp/out 2>&1 </dev/null
    status=$?
    if [ $status = 0 ]; then echo "ok $name in $mode mode: $(tail -n 1 /tmp/out)"; continue; fi
    timeout 200 /guest/$name 2>&1 </dev/null | grep ^FAIL | sort >/tmp/native
    if grep ^FAIL /tmp/out | sort >/tmp/sandbox && [ -s /tmp/sandbox ] && ! grep -vxFf /tmp/native /tmp/sandbox; then
      echo "ok $name in $mode mode: as without a sandbox: $(tail -n 1 /tmp/out)"
      cat /tmp/sandbox
    else echo "FAIL $name in $mode mode: status $status"; cat /tmp/out; failed=1; fi
  done; done
  [ -z "$failed" ]'
run_once() { timeout 900 "$top/tools/svm-vm" --timeout 840 "${files[@]}" -- sh -c "$script" vm "$@"; }
status=0
run_once "$@" || status=$?
# 125: the machine itself failed; 124: it took too long. Both may be the emulator's bad day: once more.
if ((status == 124 || status == 125)); then
  echo "once more: status $status"
  status=0
  run_once "$@" || status=$?
fi
exit "$status"
