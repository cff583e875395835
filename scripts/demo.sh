#!/usr/bin/env bash
# Sets everything up and pretrains two small models on a generated world; with demo_tasks=all finetunes them on seven tasks
# of it too: bash scripts/demo.sh [with key=value ...]
set -euo pipefail
# shellcheck source=scripts/setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"

setup_env
say "python run.py demo $*"
exec "$PYTHON" run.py demo "$@"
