#!/usr/bin/env bash
# A run on a slice of Cloud TPU, of one machine ("worker") or many, from your own machine.
#
#   export TPU_BUCKET=gs://my-bucket
#   bash launch/tpu_pod.sh create       # creates a slice, waits until it is ready
#   bash launch/tpu_pod.sh install      # installs the last commit on all workers
#   bash launch/tpu_pod.sh each COMMAND ...      # runs it on all workers, in the repository's root
#   bash launch/tpu_pod.sh run --config configs/quickstart.py --workdir runs/quickstart
#   bash launch/tpu_pod.sh resume --config configs/quickstart.py --workdir runs/quickstart
#   bash launch/tpu_pod.sh status       # the state of the slice, and the last output of worker 0
#   bash launch/tpu_pod.sh stop         # ends the run, which saves first; the slice stays
#   bash launch/tpu_pod.sh fetch runs/quickstart      # copies the work directory from the bucket
#   bash launch/tpu_pod.sh delete       # deletes the slice; the bucket stays
#   bash launch/tpu_pod.sh --dry-run SUBCOMMAND ...   # only shows the commands
#
# run continues when this machine is switched off, and the same command follows its output again.
# resume does create, install and run, and repeats them when the slice is preempted, until the run is
# finished. Arguments go to `hyper-meta run`.
#
# Settings, from the environment, and their defaults:
#   TPU_NAME     hyper-meta
#   TPU_ZONE     us-central2-b
#   TPU_TYPE     v4-32 (16 chips on 4 workers)
#   TPU_VERSION  the image that Google names for the type, tpu-ubuntu2204-base for v4
#   TPU_SPOT     yes: cheap, and may be preempted; no: neither
#   TPU_PROJECT  the project of gcloud
#   TPU_BUCKET   none: the place of the work directory, gs://BUCKET or gs://BUCKET/FOLDER
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=launch/common.sh
source launch/common.sh

name=${TPU_NAME:-hyper-meta}
type=${TPU_TYPE:-v4-32}
location=("--zone=${TPU_ZONE:-us-central2-b}" ${TPU_PROJECT:+"--project=$TPU_PROJECT"})
archive=build/$name.tar.gz
state=
readonly PAUSE=60            # seconds between two looks at a slice
readonly CONNECTION_LOST=255 # the code of ssh

tpus() {
  execute gcloud compute tpus "$@"
}

image() {
  case $type in
    v6e-*) echo v2-alpha-tpuv6e ;;
    v5p-*) echo v2-alpha-tpuv5 ;;
    v5litepod-*) echo v2-alpha-tpuv5-lite ;;
    *) echo tpu-ubuntu2204-base ;;
  esac
}

# Sets state to that of the slice, empty where there is none. A dry run takes it as it would go.
read_state() {
  local show=(queued-resources list "${location[@]}" "--filter=name~/$name\$" "--format=value(state.state)")
  if [[ $dry_run ]]; then tpus "${show[@]}"; else state=$(tpus "${show[@]}"); fi
}

make_slice() {
  local spot=()
  if [[ ${TPU_SPOT:-yes} == yes ]]; then spot=(--spot); fi
  tpus queued-resources create "$name" "--node-id=$name" "${location[@]}" "--accelerator-type=$type" \
    "--runtime-version=${TPU_VERSION:-$(image)}" "${spot[@]}"
  if [[ $dry_run ]]; then state=ACTIVE; fi
}

delete_slice() {
  tpus queued-resources delete "$name" "${location[@]}" --force --quiet
}

# Waits for the slice; makes it where there is none, and anew where it was taken away.
ensure_slice() {
  local seen=none
  read_state || return
  while [[ $state != ACTIVE ]]; do
    if [[ $state != "$seen" ]]; then echo "# $name is ${state:-not there}" >&2; fi
    seen=$state
    case $state in
      '') make_slice || return ;;
      SUSPENDED) delete_slice || return ;;
      FAILED) fail "$name cannot be had: gcloud compute tpus queued-resources describe $name ${location[*]} says why" ;;
      *) sleep "$PAUSE" ;;
    esac
    if [[ ! $dry_run ]]; then read_state || state="not known"; fi
  done
}

# on WORKER COMMAND: runs a shell command on a worker, or on all.
on() {
  tpus tpu-vm ssh "$name" "${location[@]}" "--worker=$1" "--command=$2"
}

pack() {
  local changed
  changed=$(git status --porcelain) || fail "git cannot read this repository"
  if [[ $changed ]]; then echo "# not on the slice, because it is not committed:"$'\n'"$changed" >&2; fi
  execute mkdir -p build
  execute git archive "--output=$archive" HEAD
}

# Where a run is going on its code is left as it is.
install() {
  tpus tpu-vm scp "$archive" "$name:hyper_meta.tar.gz" "${location[@]}" --worker=all &&
    on all "bash hyper_meta/launch/tpu_worker.sh busy 2>/dev/null || { mkdir -p hyper_meta && tar -xzf hyper_meta.tar.gz -C hyper_meta && bash hyper_meta/launch/tpu_worker.sh install; }"
}

# Prints the work directory that is among the arguments of hyper-meta.
workdir_of() {
  local argument previous='' workdir=''
  for argument in "$@"; do
    case $argument in --workdir=*) workdir=${argument#*=} ;; esac
    if [[ $previous == --workdir ]]; then workdir=$argument; fi
    previous=$argument
  done
  if [[ ! $workdir =~ ^[A-Za-z0-9_][A-Za-z0-9._/-]*$ || $workdir == *..* ]]; then
    fail "--workdir '$workdir': a folder below the repository is expected, such as runs/quickstart"
  fi
  echo "${workdir%/}"
}

# Prints where in the bucket a work directory is kept.
stored() {
  [[ ${TPU_BUCKET:-} == gs://* ]] || fail "export TPU_BUCKET=gs://... first: it keeps the work directory"
  echo "${TPU_BUCKET%/}/$1.tar"
}

run() {
  local workdir store
  workdir=$(workdir_of "$@")
  store=$(stored "$workdir")
  on all "$(quote bash hyper_meta/launch/tpu_worker.sh run "$store" "$workdir" "$@")"
}

# Whether the slice is there, as far as can be known, so that a failure is the run's own.
is_ready() {
  [[ $(tpus tpu-vm describe "$name" "${location[@]}" "--format=value(state)") == READY ]]
}

resume() {
  workdir_of "$@" >/dev/null
  stored "" >/dev/null
  pack
  ensure_slice
  local code
  while true; do
    code=0
    { install && run "$@"; } || code=$?
    if ((code == 0)); then break; fi
    echo "# code $code: looking at the slice in $PAUSE s" >&2
    sleep "$PAUSE"
    if ((code != CONNECTION_LOST)) && is_ready; then return "$code"; fi
    until ensure_slice; do sleep "$PAUSE"; done
  done
  if [[ $dry_run ]]; then echo "# when the slice is taken away: $(delete_slice), and all of this again"; fi
}

status() {
  read_state
  if [[ ! $dry_run ]]; then echo "$name is ${state:-not there}"; fi
  if [[ $dry_run || $state == ACTIVE ]]; then on 0 "tail --lines=20 hyper_meta_run/log"; fi
}

fetch() {
  local workdir store
  workdir=$(workdir_of --workdir "${1:-}")
  store=$(stored "$workdir")
  execute mkdir -p build
  execute gcloud storage cp "$store" build/fetched.tar
  execute tar -xf build/fetched.tar
  echo "# in $workdir" >&2
}

main() {
  if [[ ${1:-} == --dry-run ]]; then
    dry_run=yes
    shift
  fi
  local subcommand=${1:---help}
  shift || true
  if [[ $subcommand == --help ]]; then
    show_help launch/tpu_pod.sh
    return
  fi
  need gcloud "install the Google Cloud CLI (https://cloud.google.com/sdk/docs/install), then: gcloud auth login"
  case $subcommand in
    create) ensure_slice ;;
    install)
      pack
      install
      ;;
    each)
      (($#)) || fail "each needs a command"
      on all "cd hyper_meta && $(quote "$@")"
      ;;
    run) run "$@" ;;
    resume) resume "$@" ;;
    status) status ;;
    stop) on all "bash hyper_meta/launch/tpu_worker.sh stop" ;;
    fetch) fetch "$@" ;;
    delete) delete_slice ;;
    *) fail "unknown subcommand $subcommand: see bash launch/tpu_pod.sh --help" ;;
  esac
}

main "$@"
