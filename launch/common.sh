# shellcheck shell=bash
# What the scripts for GPUs, clusters and pods share. They source it from the repository's root.

# shellcheck source=launch/quickstart.sh
source launch/quickstart.sh

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  fail "bash 4.4 or newer is needed, this is $BASH_VERSION (on macOS: brew install bash)"
fi

dry_run=

# The comment at the top of the script.
show_help() {
  sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$1"
}

# quote ARGUMENT...: one line that a shell reads as these arguments.
quote() {
  local argument line=
  for argument in "$@"; do
    if [[ ! $argument =~ ^[A-Za-z0-9_./:,@%+=-]+$ ]]; then argument=${argument@Q}; fi
    line+=" $argument"
  done
  echo "${line# }"
}

# execute COMMAND...: runs it, or only shows it in a dry run.
execute() {
  if [[ $dry_run ]]; then quote "$@"; else "$@"; fi
}

# need COMMAND ADVICE: ends with a message where the command is missing and would be run.
need() {
  if [[ ! $dry_run ]] && ! command -v "$1" >/dev/null; then fail "$1 is not found: $2"; fi
}
