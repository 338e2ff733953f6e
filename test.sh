#!/bin/sh
# Sets up and runs every test; flags are passed on to pytest: sh test.sh -k scripts
cd "$(dirname "$0")" || exit
set -eu
REQUIREMENTS=requirements-dev.txt
. ./setup.sh
exec "$PYTHON" -m pytest -n auto tests "$@"
