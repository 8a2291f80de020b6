#!/bin/bash
# A run of any length under SLURM, in jobs of limited time, submitted from the clone:
#
#     sbatch --nodes 2 configs/accelerate/slurm.sh --config stereo_v1.json --workspace workspace/run --precision bf16
#
# Three minutes before a job's time is up the run is told to end: it finishes its step, saves and exits, and the job is queued again, which
# continues it. So does a job that is pre-empted or loses its machine, from the last checkpoint that was complete.
#
#SBATCH --job-name=stereofoundry
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@180
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

cd "$SLURM_SUBMIT_DIR" || exit 1
source .venv/bin/activate || exit 1

nodes=$SLURM_JOB_NUM_NODES
gpus=${SLURM_GPUS_ON_NODE:-8}
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
file=$([ "$nodes" -gt 1 ] && echo two_nodes.yaml || echo eight_gpus.yaml)

stopping=
stop() {
    stopping=yes
    scancel --signal=USR1 "$SLURM_JOB_ID" # goes to the steps of the job, not to this shell
}
trap stop USR1

# USR1 reaches every process of the step. The launcher ignores it; the training processes have a handler of their own.
srun --kill-on-bad-exit=1 bash -c 'trap "" USR1; exec accelerate launch --machine_rank "$SLURM_NODEID" "$@"' launch \
    --config_file "configs/accelerate/$file" --num_machines "$nodes" --num_processes $((nodes * gpus)) --main_process_ip "$first" \
    scripts/train.py "$@" --checkpoint latest &
step=$!

wait "$step"
code=$?
if [ "$code" -gt 128 ] && [ -n "$stopping" ]; then # the signal ended the waiting, not the step
    wait "$step"
    code=$?
fi

if [ -n "$stopping" ] && [ "$code" -eq 0 ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
