#!/usr/bin/env bash
# The tests: makes .venv, installs, and runs pytest in two processes with the arguments that are
# given (-n 0: in one).
#
#   bash launch/test.sh
#   bash launch/test.sh tests/cli/test_cli.py -k overrides
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=launch/quickstart.sh
source launch/quickstart.sh
make_environment test
exec .venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
