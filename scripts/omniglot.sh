#!/usr/bin/env bash
# The chain on Omniglot, stage by stage: what `mlx run data=omniglot algorithm=maml` does in one command.
# Omniglot is downloaded once, or read from MLX_DATA_DIR. Arguments are passed to every stage: scripts/omniglot.sh seed=1
set -euo pipefail

mlx pretrain   data=omniglot model=autoencoder "$@"                                  # features without labels
mlx transfer   data=omniglot init_from=latest:pretrain "$@"                          # the labelled training characters
mlx meta-train data=omniglot init_from=latest:transfer algorithm=maml "$@"           # learn to adapt
mlx evaluate   ckpt=latest:meta-train "$@"                                           # unseen characters, once
mlx show "$(mlx runs --json | python -c 'import json, sys; print(json.load(sys.stdin)[0]["id"])')"   # the whole lineage
