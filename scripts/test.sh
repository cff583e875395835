#!/usr/bin/env bash
# Sets everything up and runs the tests, all but the slow ones, on all cores: bash scripts/test.sh [options of pytest]
set -euo pipefail
# shellcheck source=scripts/setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"

setup_env test
say "python -m pytest -n auto --dist worksteal $*"
exec "$PYTHON" -m pytest -n auto --dist worksteal "$@"
