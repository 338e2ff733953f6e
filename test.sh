#!/bin/sh
# Sets up, checks style and types, and runs the tests; flags are passed on to pytest: sh test.sh -k scripts
#   sh test.sh --all    the long ones too: many kills, many damaged files, large pools
cd "$(dirname "$0")" || exit
set -eu
REQUIREMENTS="requirements.txt extras/models.txt requirements-dev.txt"
. ./setup.sh
"$PYTHON" -m ruff check .
"$PYTHON" -m mypy
exec "$PYTHON" -m pytest -n auto --dist worksteal "$@"
