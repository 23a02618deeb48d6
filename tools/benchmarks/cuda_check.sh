#!/usr/bin/env bash
# Check the compiled CUDA ops on a machine with a GPU: build, GPU tests, then compute-sanitizer on a reduced list.
#
#   tools/benchmarks/cuda_check.sh [report folder]
#
# Needs nvcc; compute-sanitizer (part of the CUDA toolkit) if its part is wanted. Exits non-zero at the first failure.
set -euo pipefail

root="$(cd "$(dirname "$0")/../.." && pwd)"
report="${1:-$root/work_dirs/cuda_check}"
python="${PYTHON:-python}"
mkdir -p "$report"
cd "$root"

nvidia-smi --query-gpu=name,compute_cap,driver_version --format=csv | tee "$report/device.csv"
"$python" -m mmseg_plugins.ops.build --cuda
"$python" -m mmseg_plugins.ops.info | tee "$report/info.txt"
"$python" -m pytest -m gpu tests/ops | tee "$report/tests.txt"

if ! command -v compute-sanitizer > /dev/null; then
  echo "compute-sanitizer is not on the path: memory and race checks left out"
  exit 0
fi
# One case per kernel path. PyTorch's caching allocator hides overruns, so each tensor gets memory of its own.
cases="hard_down4 or hard_q_large or sigmoid_oddratio or kmap_resized or prob_features_up or gated_same"
cases="$cases or binary_features_up_odd or rle_bits or label_same or label_features_up"
for tool in memcheck racecheck initcheck synccheck; do
  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 9 --target-processes all \
    "$python" -m pytest -q -m gpu tests/ops/test_cuda_gpu.py -k "test_fixture and not triton and ($cases)" \
    | tee "$report/$tool.txt"
done
