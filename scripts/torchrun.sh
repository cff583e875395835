#!/usr/bin/env bash
# Runs one process for each GPU without Slurm, on one node or several: bash scripts/torchrun.sh NPROC key=value ...
#
#   bash scripts/torchrun.sh 4 task_mlm_itm data_root=data/arrow/
#   NNODES=2 RDZV_ENDPOINT=node0:29500 bash scripts/torchrun.sh 4 task_mlm_itm data_root=data/arrow/     (on each node)
#
# NPROC may be left out where NPROC_PER_NODE is set. The same command goes on with a run that has stopped.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

usage() {
    echo "torchrun.sh: $1" >&2
    exit 2
}

processes="${NPROC_PER_NODE:-}" nodes="${NNODES:-1}"
if [[ "${1:-}" =~ ^[0-9]+$ ]]; then
    processes="$1"
    shift
fi
[[ -n "$processes" ]] || usage "give the number of processes of each node: bash scripts/torchrun.sh 4 task_mlm_itm ..."
if [[ "$nodes" == 1 ]]; then
    meeting=(--standalone)
else
    [[ -n "${RDZV_ENDPOINT:-}" ]] || usage "NNODES=$nodes: set RDZV_ENDPOINT=HOST:PORT, the same on each node."
    meeting=(--rdzv-backend=c10d --rdzv-endpoint="$RDZV_ENDPOINT" --rdzv-id="${RDZV_ID:-renaissance}")
fi

if [[ -z "${VIRTUAL_ENV:-}" && "${CONDA_DEFAULT_ENV:-base}" == base && -f .venv/bin/activate ]]; then
    source .venv/bin/activate
fi
exec python -m torch.distributed.run --nnodes="$nodes" --nproc-per-node="$processes" "${meeting[@]}" \
    run.py with num_gpus="$processes" num_nodes="$nodes" resume_from=auto "$@"
