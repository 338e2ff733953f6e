#!/bin/sh
# Sets up, checks style and types, and runs every test; flags are passed on to pytest: sh test.sh -k scripts
cd "$(dirname "$0")" || exit
set -eu
REQUIREMENTS="requirements.txt extras/models.txt requirements-dev.txt"
. ./setup.sh
"$PYTHON" -m ruff check .
"$PYTHON" -m mypy
exec "$PYTHON" -m pytest -n auto --dist worksteal "$@"
