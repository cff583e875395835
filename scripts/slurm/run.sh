# What the batch scripts of this folder share. Each sources it at the top of the repository and calls
#
#   run_training SETTINGS...        python run.py with SETTINGS, one process for each task of the job
#
# A run that a signal has asked to stop (the time limit is near, the job is preempted) has saved, and ends with status
# 75: the job goes back to the queue and goes on from there. Any other status ends the job.

set -euo pipefail

# True if Slurm is not ending the job itself, as it is after scancel and where it puts the job back into the queue.
goes_on() {
    [[ "$(squeue --noheader --jobs="$1" --format=%T)" == RUNNING ]]
}

# The environment of this repository, where no other is active.
activate() {
    if [[ -z "${VIRTUAL_ENV:-}" && "${CONDA_DEFAULT_ENV:-base}" == base && -f .venv/bin/activate ]]; then
        source .venv/bin/activate
    fi
}

run_training() {
    # The number of an array's last task is that of the whole array.
    local job="${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}" status=0
    job="${job:-$SLURM_JOB_ID}"

    activate
    export HF_HUB_OFFLINE=1 # models come from the cache: compute nodes need no internet
    # From Slurm 22.05 on srun does not take this over.
    [[ -z "${SLURM_CPUS_PER_TASK:-}" ]] || export SRUN_CPUS_PER_TASK="$SLURM_CPUS_PER_TASK"

    # This script outlives what tells its processes to stop, to put the job back.
    trap : TERM USR1
    # The processes of a run do not end together: one still saves, or its node is dead. Killing the others when the
    # first ends would lose the save, and fail the job before Slurm finds the dead node (SlurmdTimeout, 300 s by
    # default) and puts the job back. A process that hangs is killed after the wait.
    srun --kill-on-bad-exit=0 --wait=600 python run.py with \
        num_gpus="${SLURM_NTASKS_PER_NODE:-1}" num_nodes="$SLURM_NNODES" data_root="${DATA_ROOT:-data/arrow/}" \
        resume_from=auto "$@" || status=$?

    # What the script that has sourced this one does when a run has ended, before the job goes back to the queue.
    if declare -F run_ended >/dev/null; then
        run_ended "$status" || true
    fi

    case $status in
        75 | 138 | 143) # and 128 + a signal that came before run.py could hear it
            if goes_on "$job"; then
                echo "stopped with status $status; job $job goes back to the queue"
                scontrol requeue "$job" && exit 0
            fi
            ;;
    esac
    exit "$status"
}
