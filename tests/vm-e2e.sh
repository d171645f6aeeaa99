#!/bin/bash
# vm-e2e.sh RINGFENCE [MODE [VCPUS [CASE...]]]: end-to-end cases on hardware-style KVM, in the virtual machine of
# tools/svm-vm, whose root file system then holds bash, coreutils, python3 and gcc: each case natively there and in a
# sandbox, by tests/e2e/run. In ring-0 mode with two vCPUs if nothing else is said.
set -euo pipefail
ringfence=$1 mode=${2:-ring0} vcpus=${3:-2}
shift $(($# < 3 ? $# : 3))
cases=("$@")
if ((${#cases[@]} == 0)); then
  cases=(bash_heredocs bash_jobs bash_pipelines busybox_sh coreutils exit_status gcc python_basics python_processes
    python_threads signal_status stderr text_tools)
fi
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
files=(--file "$ringfence:/usr/local/bin/ringfence" --file "$top/tests/e2e/run:/e2e/run")
for name in "${cases[@]}"; do files+=(--file "$top/tests/e2e/cases/$name.sh:/e2e/cases/$name.sh"); done
# shellcheck disable=SC2016 — the script is for the machine's shell
script='
  mode=$1 vcpus=$2 failed=0; shift 2
  export TMPDIR=/var/tmp  # on a disk, as the cases expect: directories of tmpfs have other sizes
  for name; do
    echo "=== $name, $mode mode, $vcpus vCPUs"
    python3 /e2e/run /e2e/cases/$name.sh --ringfence /usr/local/bin/ringfence --platform kvm --kvm-mode $mode \
      --vcpus $vcpus --patience 10
    case $? in 0 | 77) ;; *) failed=1 ;; esac
  done
  exit $failed'
exec "$top/tools/svm-vm" --timeout "${RF_VM_SECONDS:-1800}" --with bash,coreutils,python3,gcc,grep,sed,mawk,awk,find,xargs \
  "${files[@]}" -- bash -c "$script" vm "$mode" "$vcpus" "${cases[@]}"
