#!/usr/bin/env bash
# The commands that launch/tpu_pod.sh calls on every worker of a slice; not to be called by hand.
#
#   tpu_worker.sh install                 .venv with jax for TPUs
#   tpu_worker.sh run STORE WORKDIR ...   starts the run, or follows the running one
#   tpu_worker.sh busy                    says whether a run is running
#   tpu_worker.sh stop                    ends the run, which saves first
#
# The work directory is on the disk of worker 0, which is lost with the slice. So worker 0 copies
# it to STORE, an object of a bucket, every ten minutes and at the end, and restores it from there on
# a new disk. It is one object because an object is written completely or not at all, as a
# checkpoint's folder on a disk is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=launch/quickstart.sh
source launch/quickstart.sh

folder=$PWD/../hyper_meta_run # of the run that goes on, or was the last: log, pid, command, code
readonly SAVE_EVERY=${SAVE_EVERY:-600} # seconds
readonly KILLED=137

install() {
  if ! (find_python) >/dev/null 2>&1; then
    # A new machine may still be busy with updates of its own.
    sudo apt-get -o DPkg::Lock::Timeout=600 update --quiet --quiet
    sudo apt-get -o DPkg::Lock::Timeout=600 install --quiet --quiet --yes python3.11 python3.11-venv
  fi
  make_environment tpu
}

is_busy() {
  [[ -f $folder/pid ]] && grep --quiet tpu_worker.sh "/proc/$(<"$folder/pid")/cmdline" 2>/dev/null
}

worker_number() {
  curl --silent --fail --header "Metadata-Flavor: Google" \
    http://metadata.google.internal/computeMetadata/v1/instance/attributes/agent-worker-number ||
    fail "the number of this worker is not known: is it one of Cloud TPU?"
}

# Packs what does not change meanwhile: tar fails where it does, and is called again.
save() {
  local store=$1 workdir=$2 try
  [[ -d $workdir ]] || return 0
  for try in 1 2 3 4 5; do
    if tar --create --file "$folder/workdir.tar" --exclude='*.unfinished' --exclude='.*.partial-*' "$workdir" &&
      gcloud storage cp --quiet "$folder/workdir.tar" "$store"; then
      return
    fi
    sleep "$try"
  done
  echo "worker 0: $workdir could not be copied to $store" >&2
  return 1
}

# That the bucket can be written is found out first: what cannot be kept is not begun, and a bucket
# that cannot be read is not taken for an empty one.
restore() {
  local store=$1 workdir=$2 found
  local advice="cannot use $store: the slice's service account needs the role Storage Object User there"
  date | gcloud storage cp --quiet - "$store.used" || fail "$advice"
  found=$(gcloud storage ls "$store*") || fail "$advice"
  if [[ -d $workdir ]] || ! grep --quiet --line-regexp --fixed-strings "$store" <<<"$found"; then return; fi
  rm -rf "$folder/restored"
  mkdir -p "$folder/restored" "$(dirname "$workdir")"
  gcloud storage cp --quiet "$store" "$folder/workdir.tar"
  tar --extract --file "$folder/workdir.tar" --directory "$folder/restored"
  mv "$folder/restored/$workdir" "$workdir"
  echo "$workdir is as it was kept in $store"
}

# work STORE WORKDIR ARGUMENT...: one process of the run, from its beginning to its end.
work() {
  trap 'echo "$?" >"$folder/code"' EXIT
  local store=$1 workdir=$2 number child saved=$SECONDS code=0
  shift 2
  number=$(worker_number)
  if ((number == 0)); then restore "$store" "$workdir"; fi
  # A SIGTERM goes to all processes of this group: hyper-meta saves and ends, this one waits for it.
  trap : TERM
  JAX_PLATFORMS=tpu,cpu .venv/bin/hyper-meta run --distributed "$@" &
  child=$!
  while kill -0 "$child" 2>/dev/null; do
    sleep 1 || true
    if ((number == 0 && SECONDS - saved >= SAVE_EVERY)); then
      save "$store" "$workdir" || true
      saved=$SECONDS
    fi
  done
  wait "$child" || code=$?
  if ((number == 0)); then save "$store" "$workdir" || code=1; fi
  return "$code"
}

start() {
  rm -f "$folder/code"
  printf '%s\0' "$@" >"$folder/command"
  # In a session of its own, which outlives the connection.
  setsid bash launch/tpu_worker.sh work "$@" >"$folder/log" 2>&1 </dev/null &
  echo $! >"$folder/pid"
}

# Shows the log while the run goes on, of the other workers only the end of one that failed.
follow() {
  local code number pid
  pid=$(<"$folder/pid")
  number=$(worker_number)
  if ((number == 0)); then
    tail --lines=50 --follow --sleep-interval=0.5 --pid="$pid" "$folder/log"
  else
    tail --follow --sleep-interval=0.5 --pid="$pid" /dev/null
  fi
  code=$(cat "$folder/code" 2>/dev/null || echo "$KILLED")
  if ((code != 0)); then echo "worker $number ended with code $code" >&2; fi
  if ((code != 0 && number != 0)); then tail --lines=20 "$folder/log" >&2; fi
  return "$code"
}

run() {
  mkdir -p "$folder"
  if ! is_busy; then
    start "$@"
  elif ! cmp --quiet "$folder/command" <(printf '%s\0' "$@"); then
    fail "another run is going on: bash launch/tpu_pod.sh stop, then run this again"
  fi
  follow
}

case $1 in
  install) install ;;
  busy) is_busy && echo "a run is going on, with the code that it has" ;;
  run) run "${@:2}" ;;
  work) work "${@:2}" ;;
  stop) if is_busy; then kill -TERM -- "-$(<"$folder/pid")"; fi ;;
  *) fail "unknown subcommand $1" ;;
esac
