# Finds or makes the virtual environment and installs the project into it; sourced by the other scripts.
#
#   setup_env          what a run needs
#   setup_env test     what the tests need besides (the extra `test` of setup.py)
#
# Sets ENVIRONMENT to its folder and PYTHON to its interpreter, and leaves the working directory at the repository root. The active
# environment (venv or conda) is used if there is one, else .venv is made here. A stamp in the environment holds the
# hash of what was installed, so that the next call installs nothing.

set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
cd "$ROOT"

HASH_OF_INPUT='import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())'

say() { printf '[setup] %s\n' "$*"; }

fail() {
    printf '[setup] %s\n' "$*" >&2
    exit 1
}

# True if the interpreter $1 exists and is Python 3.11 or newer.
new_enough() {
    command -v "$1" >/dev/null 2>&1 && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_environment() {
    local candidate base=''
    ENVIRONMENT="${VIRTUAL_ENV:-}"
    # Conda's base is active in every shell of many users: it is not a choice, and not ours to fill.
    [[ -z "$ENVIRONMENT" && "${CONDA_DEFAULT_ENV:-base}" != base ]] && ENVIRONMENT="$CONDA_PREFIX"
    if [[ -n "$ENVIRONMENT" ]]; then
        PYTHON="$ENVIRONMENT/bin/python"
        new_enough "$PYTHON" || fail "The active environment $ENVIRONMENT has no Python >= 3.11: activate one that has, or none and .venv is made."
        say "using the active environment $ENVIRONMENT"
        return
    fi
    ENVIRONMENT="$ROOT/.venv"
    PYTHON="$ENVIRONMENT/bin/python"
    if "$PYTHON" -m pip --version >/dev/null 2>&1 && new_enough "$PYTHON"; then
        say "using .venv"
        return
    fi
    for candidate in python3.11 python3.12 python3.13 python3.14 python3 python; do
        if new_enough "$candidate"; then
            base="$candidate"
            break
        fi
    done
    [[ -n "$base" ]] || fail "No Python >= 3.11 was found on PATH: install one, or activate an environment that has it."
    say "making .venv with $("$base" --version)"
    # --clear: what stands there is half-made, or of an older Python.
    "$base" -m venv --clear .venv || fail "$base could not make .venv: its module venv may be a package of its own (python3-venv)."
}

# Installs the project, with the extra $1 if given, unless the environment's stamp says that it is there.
install_project() {
    local extra="${1:-}" stamps="$ENVIRONMENT/.renaissance-setup" key
    # $ROOT: an editable installation points to one checkout.
    key="$({ cat requirements.txt setup.py && echo "$ROOT"; } | "$PYTHON" -c "$HASH_OF_INPUT")"
    if [[ "$(cat "$stamps/test" 2>/dev/null)" == "$key" ]] || [[ -z "$extra" && "$(cat "$stamps/run" 2>/dev/null)" == "$key" ]]; then
        say "already installed"
        return
    fi
    say "installing the project and what it needs (minutes the first time)"
    local started=$SECONDS
    # One command: pip must choose torch and torchvision together.
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --editable ".${extra:+[$extra]}" \
        || fail "pip could not install the project: its message is above."
    mkdir -p "$stamps"
    echo "$key" >"$stamps/${extra:-run}"
    say "installed in $((SECONDS - started)) s"
}

setup_env() {
    find_environment
    install_project "$@"
}
