#!/usr/bin/env bash
# One training run on a Cloud TPU pod slice: create it, install on all workers, start, and start again after preemption.
#
#     launch/tpu_pod.sh NAME ZONE TYPE SERVER:/SHARE --config=experiments/atari26.py --workdir=/mnt/runs/atari26 [...]
#     e.g. launch/tpu_pod.sh mow us-central2-b v4-32 10.0.0.2:/runs --config=... --workdir=/mnt/runs/atari26
#
# Assumes: gcloud is logged in with a project that may create TPU VMs; SERVER:/SHARE is an NFS share (e.g. Filestore) in the
#   TPU's network, which every worker mounts at /mnt/runs: all workers must see one workdir, and a bucket mounted as a folder
#   cannot rename folders, as checkpoints must; run from the root of the project.
# Variables: VERSION (of the TPU software, default tpu-ubuntu2204-base), SPOT (1, the default: preemptible).
# Progress: worker 0's log runs through this terminal; WORKDIR/metrics.jsonl and TensorBoard files lie on the share. The run
#   does not depend on this terminal: the same command attaches to it again.
# Stop: Ctrl-C here, then:
#   gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command='pkill -TERM -f [m]ow_jax.train'
#   which saves on all workers; then: gcloud compute tpus tpu-vm delete NAME --zone=ZONE. A TPU costs until it is deleted.
# Not run yet on a TPU by its authors.
set -euo pipefail

if (($# < 5)); then sed -n '2,5p' "$0"; exit 2; fi
name=$1 zone=$2 type=$3 share=$4
shift 4
version=${VERSION:-tpu-ubuntu2204-base}
spot=()
if [[ ${SPOT:-1} == 1 ]]; then spot=(--spot); fi
here="--zone=$zone"
arguments=$(printf ' %q' "$@")

on() { gcloud compute tpus tpu-vm ssh "$name" "$here" "--worker=$1" --command="$2"; }

state() { gcloud compute tpus tpu-vm describe "$name" "$here" --format='value(state)' 2>/dev/null || echo MISSING; }

create() {
  gcloud compute tpus tpu-vm create "$name" "$here" "--accelerator-type=$type" "--version=$version" "${spot[@]}"
}

# The system's Python may be too old: uv brings one.
install() {
  tar --exclude-vcs --exclude=runs --exclude=.venv -czf /tmp/mow_jax.tar.gz .
  gcloud compute tpus tpu-vm scp /tmp/mow_jax.tar.gz "$name:" "$here" --worker=all
  on all "set -e
    mkdir -p mow_jax && tar -xzf mow_jax.tar.gz -C mow_jax
    sudo apt-get -q update && sudo apt-get -qy install nfs-common libosmesa6 python3-pip
    sudo mkdir -p /mnt/runs && (mountpoint -q /mnt/runs || sudo mount -t nfs $share /mnt/runs) && sudo chmod a+rwx /mnt/runs
    python3 -m pip install -q --user uv && ~/.local/bin/uv venv --clear --python 3.12 ~/env
    ~/.local/bin/uv pip install -q --python ~/env/bin/python -e ./mow_jax'[all]' 'jax[tpu]'
    touch ~/installed"
}

# Workers find each other by the TPU's own metadata. Each leaves its exit code in ~/code.
start() {
  on all "rm -f code && cd mow_jax && (nohup bash -c '~/env/bin/python -m mow_jax.train --distributed \
    --preempted_exit_code=75$arguments; echo \$? > ~/code' > ~/train.log 2>&1 < /dev/null &)"
}

# Worker 0's log until its process has ended, then that exit code.
# shellcheck disable=SC2016  # it is worker 0 that expands this
follow() {
  on 0 'tail -n +1 -F train.log & while [ ! -e code ]; do sleep 5; done; sleep 1; kill $!; exit "$(cat code)"'
}

running() { on 0 'pgrep -f [m]ow_jax.train > /dev/null && [ ! -e code ]'; }

while true; do
  case $(state) in
    READY) ;;
    MISSING) create ;;
    *) # a preempted slice stays behind as a corpse
      gcloud compute tpus tpu-vm delete "$name" "$here" --quiet || true
      create
      ;;
  esac
  on all '[ -e installed ]' 2>/dev/null || install
  running || start
  follow && code=0 || code=$?
  if ((code == 0)); then
    echo "done; the TPU still costs: gcloud compute tpus tpu-vm delete $name $here"
    exit 0
  fi
  sleep 90 # a preemption shows in the state only after a while; ssh itself ends with 255 when the connection is lost
  if ((code != 75 && code != 255)) && [[ $(state) == READY ]]; then
    echo "the run failed with $code and the TPU is well: see above; nothing was deleted" >&2
    exit 1
  fi
  echo "preempted, or the connection was lost: the run goes on from its last checkpoint" >&2
done
