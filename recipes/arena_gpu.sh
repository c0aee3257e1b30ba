#!/usr/bin/env bash
# Train a model on one GPU of the H100 class and 16 cores, in about 25 minutes:
#   bash recipes/arena_gpu.sh runs/arena
# PRESET=arena-live trains a model that runs in real time on a laptop.
# docs/recipe.md explains the stages, the options and the times.
# shellcheck disable=SC2034,SC1091
set -euo pipefail
recipes=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

preset=${PRESET:-arena}
tokenizer_config=$recipes/arena_gpu_tokenizer.json
world_config=$recipes/arena_gpu_world.json
[[ $preset != arena-live ]] || world_config=$recipes/arena_gpu_world_live.json
episodes=1000
tokenizer_episodes=88 # the first 88 seeds hold 80 episodes for training and validation
edited=0.5            # share of the training episodes that are added once more with foreign objects
beside=1              # 1: record the other episodes while the tokenizer trains
evaluation_minutes=3
evaluation_flags=(--temperature 1 --action-temperature 1 --risk-weight 3)

. "$recipes/common.sh"
