#!/usr/bin/env bash
# One machine with NVIDIA GPUs: makes .venv with jax for CUDA, checks that jax sees the GPUs, runs.
#
#   bash launch/gpu.sh      # a first try: the speed of one stage
#   bash launch/gpu.sh run --config configs/quickstart.py --workdir runs/quickstart
#   bash launch/gpu.sh --dry-run ...      # only shows the commands
#
# Arguments go to `hyper-meta`. One process uses all GPUs of the machine, or those named in
# CUDA_VISIBLE_DEVICES.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# shellcheck source=launch/common.sh
source launch/common.sh

check_driver() {
  need nvidia-smi "install NVIDIA's driver (on Ubuntu: sudo ubuntu-drivers install), restart the machine, run this again"
  execute nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader ||
    fail "nvidia-smi finds no GPU: check the driver and the GPU, then run this again"
}

check_jax() {
  execute env JAX_PLATFORMS=cuda .venv/bin/python -c 'import jax; print("jax sees", *jax.devices())' ||
    fail "jax does not see the GPU: unset LD_LIBRARY_PATH, and update a driver older than 525, then run this again"
}

main() {
  case ${1:-} in
    --help)
      show_help launch/gpu.sh
      return
      ;;
    --dry-run)
      dry_run=yes
      shift
      ;;
  esac
  if (($# == 0)); then set -- benchmark --config configs/benchmark.py --only hyperldm; fi
  check_driver
  execute bash -euo pipefail -c 'source launch/quickstart.sh && make_environment cuda' launch/gpu.sh
  check_jax
  # Where the GPU fails, this is an error and not a run on the CPU.
  execute env JAX_PLATFORMS=cuda,cpu .venv/bin/hyper-meta "$@"
}

main "$@"
