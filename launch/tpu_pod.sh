#!/usr/bin/env bash
# One training run on a Cloud TPU pod slice: create it, install on all workers, start, and start again after preemption.
#
#     launch/tpu_pod.sh NAME ZONE TYPE BUCKET_DIR --config=experiments/atari26.py --workdir=/mnt/runs/atari26 [...]
#     e.g. launch/tpu_pod.sh mow us-central2-b v4-32 gs://my-bucket/runs --config=... --workdir=/mnt/runs/atari26
#
# Assumes: gcloud is logged in with a project that may create TPU VMs; BUCKET_DIR is a bucket folder that every worker
#   mounts at /mnt/runs with gcsfuse (all workers must see one workdir); run from the root of the project.
# Variables: VERSION (of the TPU software, default tpu-ubuntu2204-base), SPOT (1, the default: preemptible).
# Progress: worker 0 writes to this terminal; WORKDIR/metrics.jsonl and TensorBoard files lie in the bucket.
# Stop: Ctrl-C here, then: gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command='pkill -TERM -f mow_jax'
#   which saves on all workers; then: gcloud compute tpus tpu-vm delete NAME --zone=ZONE. A TPU costs until it is deleted.
# Not run yet on a TPU by its authors.
set -euo pipefail

if (($# < 5)); then sed -n '2,5p' "$0"; exit 2; fi
name=$1 zone=$2 type=$3 bucket=$4
shift 4
version=${VERSION:-tpu-ubuntu2204-base}
spot=()
if [[ ${SPOT:-1} == 1 ]]; then spot=(--spot); fi
here="--zone=$zone"
arguments=$(printf ' %q' "$@")
rest=${bucket#gs://}
volume=${rest%%/*}
folder=${rest#"$volume"}
folder=${folder#/}

on_all() { gcloud compute tpus tpu-vm ssh "$name" "$here" --worker=all --command="$1"; }

state() { gcloud compute tpus tpu-vm describe "$name" "$here" --format='value(state)' 2>/dev/null || echo MISSING; }

create() {
  gcloud compute tpus tpu-vm create "$name" "$here" "--accelerator-type=$type" "--version=$version" "${spot[@]}"
  tar --exclude-vcs --exclude=runs --exclude=.venv -czf /tmp/mow_jax.tar.gz .
  gcloud compute tpus tpu-vm scp /tmp/mow_jax.tar.gz "$name:" "$here" --worker=all
  on_all "set -e
    mkdir -p mow_jax && tar -xzf mow_jax.tar.gz -C mow_jax
    sudo apt-get -q update && sudo apt-get -qy install gcsfuse libosmesa6 python3-venv
    sudo mkdir -p /mnt/runs && sudo chown \$USER /mnt/runs
    gcsfuse --implicit-dirs ${folder:+--only-dir=$folder} $volume /mnt/runs
    python3 -m venv ~/env && ~/env/bin/pip install -q -e ./mow_jax'[all]' 'jax[tpu]'"
}

while true; do
  case $(state) in
    READY) ;;
    MISSING) create ;;
    *) # a preempted slice stays behind as a corpse
      gcloud compute tpus tpu-vm delete "$name" "$here" --quiet || true
      create
      ;;
  esac
  # Workers find each other by the TPU's own metadata.
  if on_all "cd mow_jax && ~/env/bin/python -m mow_jax.train --distributed --preempted_exit_code=75$arguments"; then
    echo "done; the TPU still costs: gcloud compute tpus tpu-vm delete $name $here"
    exit 0
  fi
  if [[ $(state) == READY ]]; then
    echo "the run failed and the TPU is well: see above; nothing was deleted" >&2
    exit 1
  fi
  echo "the TPU was preempted: making another, the run goes on from its last checkpoint" >&2
  sleep 60
done
