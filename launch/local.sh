#!/usr/bin/env bash
# One training run over N processes on this machine, each with a few virtual CPU devices: to try what a cluster does.
#
#     launch/local.sh N --config=experiments/toy.py --workdir=runs/local [further arguments of mow_jax.train]
#
# Assumes: `python` (or $PYTHON) has mow_jax; N is at most the number of tasks; all processes see the same workdir.
# Variables: DEVICES (virtual devices a process, default 4), PORT (of the coordinator, default a free one).
# Progress: process 0 writes to this terminal, WORKDIR/metrics.jsonl and TensorBoard; the others log to
#   WORKDIR.process-I.log.
# Stop: Ctrl-C, or SIGTERM to this script: all processes save together and end. The same command goes on from there.
# When a process dies the others end by themselves; the same command resumes from the last complete checkpoint.
set -euo pipefail

usage() { sed -n '2,4p' "$0"; exit 2; }
[[ ${1:-} =~ ^[1-9][0-9]*$ ]] || usage
count=$1
shift
python=${PYTHON:-python}
workdir=
for argument in "$@"; do
  case $argument in --workdir=*) workdir=${argument#--workdir=} ;; esac
done
[[ -n $workdir ]] || usage
port=${PORT:-$("$python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')}
export JAX_PLATFORMS=cpu
export XLA_FLAGS="--xla_force_host_platform_device_count=${DEVICES:-4} --xla_backend_optimization_level=1 ${XLA_FLAGS:-}"
mkdir -p "$(dirname "$workdir")"

pids=()
# shellcheck disable=SC2329  # called by the trap
forward() { for pid in "${pids[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done; }
trap forward TERM INT
for ((index = 0; index < count; index++)); do
  job=("$python" -m mow_jax.train --distributed "--coordinator_address=127.0.0.1:$port"
    "--num_processes=$count" "--process_id=$index" "$@")
  if ((index == 0)); then "${job[@]}" & else "${job[@]}" >"${workdir%/}.process-$index.log" 2>&1 & fi
  pids+=($!)
done

worst=0
for index in "${!pids[@]}"; do
  pid=${pids[$index]}
  # A trapped signal ends `wait` early: then wait again for the same process.
  while true; do
    wait "$pid" && code=0 || code=$?
    kill -0 "$pid" 2>/dev/null || break
  done
  if ((code > 0)); then echo "process $index ended with exit code $code" >&2; fi
  if ((code > worst)); then worst=$code; fi
done
exit "$worst"
