#!/usr/bin/env bash
# A run on the GPUs of a Slurm cluster, one process per GPU. From the repository's root:
#
#   bash launch/slurm.sh --install      # once, on a node with internet: .venv with jax for CUDA
#   sbatch launch/slurm.sh --config configs/quickstart.py --workdir runs/quickstart
#   sbatch --nodes=2 --gpus-per-node=8 --ntasks-per-node=8 launch/slurm.sh --config ... --workdir ...
#   bash launch/slurm.sh --dry-run ...      # only shows the command of the job
#
# Arguments go to `hyper-meta run`; options of sbatch before the script replace those below. Before
# its time limit the job saves, ends, and queues itself again, until the run is finished. The
# repository and the work directory must be on a disk that all nodes share.
#
#SBATCH --job-name=hyper_meta
#SBATCH --nodes=1
#SBATCH --gpus-per-node=4
#SBATCH --ntasks-per-node=4
#SBATCH --cpus-per-task=8
#SBATCH --time=12:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out
set -euo pipefail

# Slurm runs a copy of this script that lies elsewhere, in the folder of the sbatch command.
if [[ ! ${SLURM_JOB_ID:-} ]]; then cd "$(dirname "${BASH_SOURCE[0]}")/.."; fi
if [[ ! -f launch/common.sh ]]; then
  echo "slurm.sh: $PWD is not the repository's root: call sbatch there" >&2
  exit 1
fi

# shellcheck source=launch/common.sh
source launch/common.sh

readonly TERMINATED=143 # saved because of a SIGTERM

check_job() {
  [[ ${SLURM_JOB_ID:-} ]] || fail "this is no Slurm job: submit it, sbatch launch/slurm.sh ..."
  [[ -x .venv/bin/hyper-meta ]] || fail "there is no .venv: bash launch/slurm.sh --install first"
  need srun "is this a Slurm node?"
  local gpus=${SLURM_GPUS_ON_NODE:-} processes=${SLURM_NTASKS_PER_NODE:-}
  if [[ $gpus && $processes && $gpus != "$processes" ]]; then
    fail "a node has $gpus GPUs and $processes processes: give sbatch the same --gpus-per-node and --ntasks-per-node"
  fi
}

# Every process sees all GPUs of its node, and jax gives each its own. Those that have saved wait
# for those that are still saving (--kill-on-bad-exit=0).
train() {
  execute srun --kill-on-bad-exit=0 --gpu-bind=none "--cpus-per-task=${SLURM_CPUS_PER_TASK:-8}" \
    env JAX_PLATFORMS=cuda,cpu .venv/bin/hyper-meta run --distributed "$@"
}

main() {
  case ${1:-} in
    --help)
      show_help "${BASH_SOURCE[0]}"
      return
      ;;
    --install)
      make_environment cuda
      return
      ;;
    --dry-run)
      dry_run=yes
      shift
      ;;
  esac
  if [[ ! $dry_run ]]; then check_job; fi
  local code=0
  train "$@" || code=$?
  if ((code == TERMINATED)); then
    echo "the time of job $SLURM_JOB_ID is over: it goes on from the queue"
    scontrol requeue "$SLURM_JOB_ID"
  fi
  return "$code"
}

main "$@"
