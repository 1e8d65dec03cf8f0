#!/usr/bin/env bash
# Train on the nodes of a Slurm job: one torchrun a node, one process a GPU. From the folder of this
# project:
#
#   sbatch --nodes=4 --gpus-per-node=8 --cpus-per-task=96 --time=24:00:00 \
#       scripts/slurm_train.sh CONFIG OUT [key=value ...]
#
# If a job ends before the training, the same command resumes it.
#SBATCH --job-name=detclip2
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --requeue
# Three minutes before the end, or where the job has to make room: an iteration, then a checkpoint.
#SBATCH --signal=TERM@180
set -euo pipefail

config=$1
output=$2
shift 2
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
port=$((20000 + SLURM_JOB_ID % 10000)) # jobs on one node need different ports
# PROCESSES: where there are no GPUs.
processes=${PROCESSES:-${SLURM_GPUS_ON_NODE:-1}}

# Since Slurm 22.05, srun does not take the number of cores from sbatch.
export SRUN_CPUS_PER_TASK=${SLURM_CPUS_PER_TASK:-1}
# torchrun gives its processes 30 seconds after SIGTERM by default.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=150
# "python -m torch.distributed.run" is torchrun, run by this Python.
exec srun --kill-on-bad-exit=1 python -m torch.distributed.run \
    --nnodes "$SLURM_JOB_NUM_NODES" --nproc-per-node "$processes" --max-restarts 3 \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-backend c10d --rdzv-endpoint "$first:$port" \
    projects/DetCLIPv2/train_net.py --config-file "$config" --resume "train.output_dir=$output" "$@"
