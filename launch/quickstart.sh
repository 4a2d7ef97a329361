#!/usr/bin/env bash
# The quickstart, on a new machine: makes .venv, installs, trains on embedded data, reports.
#
#   bash launch/quickstart.sh
#   bash launch/quickstart.sh --config.hyperldm_tokens.guidance_scale=2 --workdir runs/scale_2
#
# Arguments go to `hyper-meta run`. The same command resumes an interrupted run.
set -euo pipefail
unset PYTHONDONTWRITEBYTECODE # with it, every process compiles all the modules that it imports

fail() {
  echo "$(basename "$0"): $*" >&2
  exit 1
}

# Prints the Python to use: python3, or where that is older than 3.11 a newer one beside it.
find_python() {
  local name
  for name in python3 python3.13 python3.12 python3.11; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  fail "Python 3.11 or newer is needed, python3 is $(python3 --version 2>&1 || true):" \
    "install it (for example python3.11 and python3.11-venv) and run this again"
}

# What an installation depends on: the requirements, the package's settings, and where it lies.
checksum() {
  { cat requirements.txt pyproject.toml && pwd; } | cksum
}

# install_package EXTRA: this package and its extra into .venv, with uv, which takes a third of pip's time,
# or with pip where uv cannot be installed or fails. uv reads none of pip's settings: it gets those that
# the environment holds.
install_package() {
  local wanted=".${1:+[$1]}" python=.venv/bin/python
  local index=${UV_DEFAULT_INDEX:-${PIP_INDEX_URL:-}} links=${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}}
  if "$python" -m pip install --quiet --disable-pip-version-check --no-compile uv &&
    UV_DEFAULT_INDEX=$index UV_FIND_LINKS=${links// /,} \
      "$python" -m uv pip install --quiet --python "$python" --editable "$wanted"; then
    return
  fi
  echo "uv cannot install this package: trying pip"
  "$python" -m pip install --quiet --disable-pip-version-check --no-compile --editable "$wanted"
}

# make_environment [EXTRA]: .venv with this package and its extra, installed only if anything changed.
# Python compiles a module when it is first imported: of 19,000 files that is a quarter.
make_environment() {
  local extra=${1:-} python stamp start=$SECONDS
  stamp=.venv/installed${extra:+-$extra}
  if [[ -f $stamp && $(<"$stamp") == "$(checksum)" ]] && .venv/bin/python -c '' 2>/dev/null; then
    return
  fi
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    echo "making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv ||
      fail "cannot make .venv: on Debian and Ubuntu, install python3-venv, then run this again"
  fi
  echo "installing into .venv, which takes one to five minutes the first time"
  install_package "$extra" || fail "the installation failed: run this again to go on"
  # An extra comes on top of what the others need.
  checksum | tee .venv/installed >"$stamp"
  echo "installed in $((SECONDS - start)) s"
}

main() {
  local workdir=runs/quickstart argument previous=
  for argument in "$@"; do
    case $argument in --workdir=*) workdir=${argument#*=} ;; esac
    if [[ $previous == --workdir ]]; then workdir=$argument; fi
    previous=$argument
  done
  make_environment
  .venv/bin/hyper-meta run --config configs/quickstart.py --workdir "$workdir" "$@"
  echo
  .venv/bin/python examples/scenes.py "$workdir/scenes"
  cat <<EOF
$workdir/scenes/answers.png shows them. To type next:
  source .venv/bin/activate
  hyper-meta generate --workdir $workdir --task "Colour of the top left digit?" \\
      --out colour.safetensors
  hyper-meta predict --weights colour.safetensors \\
      --answers red,orange,yellow,green,blue,purple,pink,white $workdir/scenes/scene*.png
EOF
}

# launch/test.sh takes the functions from here.
if [[ ${BASH_SOURCE[0]} == "$0" ]]; then
  cd "$(dirname "${BASH_SOURCE[0]}")/.."
  main "$@"
fi
