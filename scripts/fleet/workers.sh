#!/usr/bin/env bash
# Start a worker on each of several machines over ssh, and stay until all have ended.
#
#   scripts/fleet/workers.sh HOST:PORT KEY MACHINE... [-- OPTION OF crawler worker...]
#
# KEY is the folder that `crawler keygen` made; `key` and `cert.pem` of it are copied to ~/.crawler-key of each machine,
# where crawler must be installed. To stop before the end, stop the coordinator: it tells all workers. SSH names another
# ssh. The status is that of the last worker that did not end well, else 0.
set -euo pipefail

if (($# < 3)); then
  sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
  exit 2
fi
coordinator=$1 key=$2
shift 2
machines=()
while (($#)) && [[ $1 != -- ]]; do
  machines+=("$1")
  shift
done
[[ ${1:-} != -- ]] || shift
ssh=${SSH:-ssh}

# send MACHINE: copy the key there, readable for its owner only.
send() {
  tar -C "$key" -c key cert.pem |
    "$ssh" "$1" 'umask 077 && mkdir -p ~/.crawler-key && tar -C ~/.crawler-key -x && chmod 600 ~/.crawler-key/key'
}

# work MACHINE OPTION...: run a worker there, what it says with the machine's name before it.
work() {
  local machine=$1 options
  shift
  printf -v options ' %q' "$coordinator" "$@"
  "$ssh" "$machine" "exec crawler worker$options --key ~/.crawler-key" </dev/null 2>&1 | sed "s/^/$machine: /"
}

for machine in "${machines[@]}"; do
  send "$machine"
done
pids=()
for machine in "${machines[@]}"; do
  work "$machine" "$@" &
  pids+=($!)
done
status=0
for pid in "${pids[@]}"; do
  wait "$pid" || status=$?
done
exit "$status"
