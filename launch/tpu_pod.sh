#!/usr/bin/env bash
# One training run on a Cloud TPU pod slice: create it, install on all workers, start, and start again after preemption.
#
#     launch/tpu_pod.sh NAME ZONE TYPE SERVER:/SHARE --config=experiments/atari26.py --workdir=/mnt/runs/atari26 [...]
#     e.g. launch/tpu_pod.sh mow us-central2-b v4-32 10.0.0.2:/runs --config=... --workdir=/mnt/runs/atari26
#
# Assumes: gcloud is logged in with a project that may create TPU VMs; SERVER:/SHARE is an NFS share (e.g. Filestore) in the
#   TPU's network, which every worker mounts at /mnt/runs: all workers must see one workdir, and a bucket mounted as a folder
#   cannot rename folders, as checkpoints must; run from the root of the project, where python3 (or $PYTHON) is 3.9 or later.
# Variables: VERSION (of the TPU software, default tpu-ubuntu2204-base), SPOT (1, the default: preemptible), WAIT (seconds
#   between tries where no TPU is free, default 300).
# Progress: worker 0's log runs through this terminal; WORKDIR/metrics.jsonl and TensorBoard files lie on the share. The run
#   does not depend on this terminal: the same command attaches to it again. Where nothing runs it copies the project as it
#   is here, installs and starts.
# Stop: Ctrl-C here, then:
#   gcloud compute tpus tpu-vm ssh NAME --zone=ZONE --worker=all --command="pkill -TERM -f '^[^ ]*python -m mow_jax.train'"
#   which saves on all workers; then: gcloud compute tpus tpu-vm delete NAME --zone=ZONE. A TPU costs until it is deleted.
# Tried with a gcloud of our own (tests/test_launch.py); not run yet on a TPU by its authors.
set -euo pipefail

if (($# < 5)); then sed -n '2,5p' "$0"; exit 2; fi
name=$1 zone=$2 type=$3 share=$4
shift 4
version=${VERSION:-tpu-ubuntu2204-base} wait=${WAIT:-300}
spot=()
if [[ ${SPOT:-1} == 1 ]]; then spot=(--spot); fi
here="--zone=$zone"
made=$(mktemp -d)
trap 'rm -rf "$made"' EXIT
command -v gcloud > /dev/null || { echo "gcloud is not there: install Google Cloud's command line" >&2; exit 2; }
if ! [[ -f mow_jax/origin.py ]] || ! "${PYTHON:-python3}" -B -c 'import mow_jax.origin'; then
  echo "run this from the root of the project, with python3 or \$PYTHON" >&2
  exit 2
fi
if [[ " $*" != *" --workdir=/mnt/runs/"* ]]; then
  echo "--workdir must lie under /mnt/runs, the share that all workers see" >&2
  exit 2
fi

# Whether a worker answers is read off what it prints: a lost connection is no answer, and ends nothing.
on() { gcloud compute tpus tpu-vm ssh "$name" "$here" "--worker=$1" --command="$2"; }

state() {
  gcloud compute tpus tpu-vm describe "$name" "$here" --format='value(state)' 2> "$made/fault" && return
  if grep -q NOT_FOUND "$made/fault"; then echo MISSING; else echo UNKNOWN; fi
}

create() {
  gcloud compute tpus tpu-vm create "$name" "$here" "--accelerator-type=$type" "--version=$version" "${spot[@]}"
}

# What every worker does before a run. The system's Python may be too old: uv brings one.
cat > "$made/prepare.sh" <<END
set -e
rm -rf mow_jax
mkdir mow_jax
tar -xzf mow_jax.tar.gz -C mow_jax
if ! mountpoint -q /mnt/runs; then # after a reboot, too
  sudo apt-get -o DPkg::Lock::Timeout=600 -q update
  sudo apt-get -o DPkg::Lock::Timeout=600 -qy install nfs-common libosmesa6 python3-pip
  sudo mkdir -p /mnt/runs
  # Of version 3 a server keeps the locks of a machine that was preempted, and only worker 0 takes one.
  sudo mount -t nfs -o local_lock=flock $(printf '%q' "$share") /mnt/runs
  sudo chmod a+rwx /mnt/runs
fi
[ -x ~/.local/bin/uv ] || python3 -m pip install -q --user uv
[ -x env/bin/python ] || ~/.local/bin/uv venv --python 3.12 env
~/.local/bin/uv pip install -q --python env/bin/python -e './mow_jax[all]' 'jax[tpu]'
echo prepared
END

# Which code it is: results name it, and the workers have no git.
commit() { "${PYTHON:-python3}" -B -c 'from mow_jax.origin import commit; print(commit())'; }

# The run: workers find each other by the TPU's own metadata. Each leaves its exit code in ~/code.
write_run() {
  cat > "$made/run.sh" <<END
umask 000 # a user can have another number on each worker, and all write to one share
cd mow_jax
export MOW_JAX_COMMIT=$(commit)
~/env/bin/python -m mow_jax.train --distributed --preempted_exit_code=75$(printf ' %q' "$@")
echo \$? > ~/code
END
}

# The project as it is now to all workers, and the run; fails unless all of them have been prepared.
start() {
  write_run "$@"
  rm -f "$made/mow_jax.tar.gz"
  tar --exclude-vcs --exclude=./runs --exclude=./results --exclude=./.venv -czf "$made/mow_jax.tar.gz" . || return 1
  gcloud compute tpus tpu-vm scp "$made/mow_jax.tar.gz" "$made/prepare.sh" "$made/run.sh" "$name:" "$here" \
    --worker=all || return 1
  on all 'bash prepare.sh || echo not-prepared' | tee "$made/said" >&2 || return 1
  if grep -q not-prepared "$made/said"; then return 1; fi
  on all 'rm -f code; nohup flock -n lock bash run.sh > train.log 2>&1 < /dev/null &'
}

# Worker 0's log until its process has ended.
follow() {
  on 0 "tail -n +1 -F train.log & while $process && [ ! -e code ]; do sleep 5; done; sleep 1; kill \$!"
}

process="pgrep -f '^[^ ]*python -m mow_jax.train' > /dev/null"
failures=0 lost=0
while true; do
  now=$(state)
  case $now in
    READY) ;;
    MISSING)
      create || { echo "tried again in $wait s; Ctrl-C ends this" >&2; sleep "$wait"; }
      continue
      ;;
    PREEMPTED | TERMINATED) # it stays behind as a corpse
      gcloud compute tpus tpu-vm delete "$name" "$here" --quiet || sleep "$wait"
      continue
      ;;
    *) # on its way, or gcloud has not answered
      echo "the TPU is $now" >&2
      cat "$made/fault" >&2
      sleep "$((wait / 10))"
      continue
      ;;
  esac
  running=$(on all "if $process; then echo is-running; else echo is-idle; fi") || running+=not-all-have-answered
  case $running in
    *is-running*) ;;
    *not-all-have-answered*) sleep "$((wait / 10))"; continue ;;
    *)
      if ! start "$@"; then
        if ((++failures == 5)); then echo "it could not be started on all workers: see above; nothing was deleted" >&2; exit 1; fi
        sleep "$((wait / 10))"
        continue
      fi
      sleep "$((wait / 30))" # until the log is there
      ;;
  esac
  failures=0
  follow || true
  # shellcheck disable=SC2016
  code=$(on 0 'echo "code $(cat code)"' 2> /dev/null | sed -n 's/^code \([0-9][0-9]*\)$/\1/p' || true)
  if [[ $code == 0 ]]; then
    echo "done; the TPU still costs: gcloud compute tpus tpu-vm delete $name $here"
    exit 0
  fi
  sleep "$((wait * 3 / 10))" # a preemption shows in the state only after a while
  # One of several workers that dies ends the others with 1, and all go on from the last checkpoint: three times in a row.
  if [[ $code == 75 ]]; then lost=0; fi
  if [[ -n $code && $code != 75 && $(state) == READY ]] && { [[ $code != 1 ]] || ((++lost > 3)); }; then
    echo "the run failed with $code and the TPU is well: see above; nothing was deleted" >&2
    exit 1
  fi
  echo "preempted, or the connection was lost: the run goes on from its last checkpoint" >&2
done
