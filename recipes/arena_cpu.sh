#!/usr/bin/env bash
# Train a model that runs in real time on a laptop, on two CPU cores in about two hours:
#   bash recipes/arena_cpu.sh runs/arena
# docs/recipe.md explains the stages, the options and the times.
# shellcheck disable=SC2034,SC1091
set -euo pipefail
recipes=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

preset=arena-live
tokenizer_config=$recipes/arena_cpu_tokenizer.json
world_config=$recipes/arena_cpu_world.json
episodes=200          # seeds 0 to 199, one minute each
tokenizer_episodes=71 # the first 71 seeds hold 65 episodes for training and validation
edited=0.25           # share of the training episodes that are added once more with foreign objects
beside=0              # 1: record the other episodes while the tokenizer trains
evaluation_minutes=15
evaluation_flags=(--temperature 0.7 --action-temperature 1)

. "$recipes/common.sh"
