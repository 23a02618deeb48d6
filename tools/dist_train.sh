#!/usr/bin/env bash
# usage: tools/dist_train.sh CONFIG GPUS [arguments of train.py]     env: NNODES NODE_RANK PORT MASTER_ADDR
set -euo pipefail
config=$1 gpus=$2
torchrun --nnodes="${NNODES:-1}" --node_rank="${NODE_RANK:-0}" --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" --nproc_per_node="$gpus" \
    "$(dirname "$0")/train.py" "$config" --launcher pytorch "${@:3}"
