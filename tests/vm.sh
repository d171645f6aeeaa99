#!/bin/bash
# vm.sh RINGFENCE GUEST-PROGRAMS-DIRECTORY NAME...: runs guest programs in sandboxes on hardware-style KVM, in ring-0
# mode and in exit mode, in the virtual machine of tools/svm-vm. One boot for all of them; each has its own time-out
# inside. The machine's CPU is emulated, and not in every corner right (it knows neither alignment checks nor SSE
# exceptions): a program with cases that fail is run there without a sandbox too, and passes if the same cases fail there,
# for the same reasons. RF_VM_VCPUS: how many vCPUs, 2 if not set; RF_VM_SECONDS: the time-out for all of them together.
set -euo pipefail
ringfence=$1 directory=$2 vcpus=${RF_VM_VCPUS:-2} seconds=${RF_VM_SECONDS:-840}
shift 2
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
files=(--file "$ringfence:/usr/local/bin/ringfence")
for name in "$@"; do files+=(--file "$directory/$name:/guest/$name"); done
# shellcheck disable=SC2016 — the script is for the machine's shell
script='
  vcpus=$1 failed=; shift
  for name; do for mode in ring0 exit; do
    timeout 200 ringfence run --platform kvm --kvm-mode $mode --vcpus $vcpus -- /guest/$name >/tmp/out 2>&1 </dev/null
    status=$?
    if [ $status = 0 ]; then echo "ok $name in $mode mode: $(tail -n 1 /tmp/out)"; continue; fi
    timeout 200 /guest/$name 2>&1 </dev/null | grep ^FAIL | sort >/tmp/native
    grep ^FAIL /tmp/out | sort >/tmp/sandbox
    if [ -s /tmp/sandbox ] && ! grep -vxFf /tmp/native /tmp/sandbox && grep -q " passed, .* failed$" /tmp/out; then
      echo "ok $name in $mode mode: as without a sandbox: $(tail -n 1 /tmp/out)"
      cat /tmp/sandbox
    else echo "FAIL $name in $mode mode, $vcpus vCPUs: status $status"; cat /tmp/out; failed=1; fi
  done; done
  [ -z "$failed" ]'
run_once() {
  timeout $((seconds + 60)) "$top/tools/svm-vm" --timeout "$seconds" "${files[@]}" -- sh -c "$script" vm "$vcpus" "$@"
}
status=0
run_once "$@" || status=$?
# 125: the machine itself failed; 124: it took too long. Both may be the emulator's bad day: once more.
if ((status == 124 || status == 125)); then
  echo "once more: status $status"
  status=0
  run_once "$@" || status=$?
fi
exit "$status"
