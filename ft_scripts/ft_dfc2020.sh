#!/usr/bin/env bash
# Transfer to DFC2020 as published: PSPNet, batch 32, 50 epochs, Adam 5e-4, cosine to 1e-5 at epoch 40.
set -euo pipefail

usage() {
  cat >&2 <<'TEXT'
usage: bash ft_scripts/ft_dfc2020.sh [s1|s2] [WEIGHTS] [frozen|tuned] [further flags of finetune.py]

WEIGHTS is random, imagenet or a checkpoint file. Environment:
  DATA      folder with train/ and test/ stores from write_dfc2020_lmdb.py; empty for the synthetic set
  ENCODER   encoder of the weights         (resnet50)
  SAVE_DIR  parent of the run folder       (runs)
  SEED      seed                           (42)
  PYTHON    interpreter                    (.venv/bin/python if there, else python3)
TEXT
  exit 2
}

here=$(cd "$(dirname "$0")/.." && pwd)
input=${1:-s2} weights=${2:-random} encoder_state=${3:-frozen}
[[ $input == s1 || $input == s2 ]] || usage
case $encoder_state in frozen) tag=efix ;; tuned) tag=etr ;; *) usage ;; esac
python=${PYTHON:-$here/.venv/bin/python}
[[ -x $(command -v "$python") ]] || python=python3

exec "$python" "$here/train_scripts/finetune.py" \
  --dataset DFC2020 --data_path "${DATA:-}" --input_type "$input" \
  --model_framework pspnet --model_type "${ENCODER:-resnet50}" \
  --weight_path "$weights" --encoder_finetune_tag "$tag" \
  --batch_size 32 --epochs 50 --learning_rate 5e-4 --scheduler_type cos --scheduler_values 0.8 1e-5 \
  --save_dir "${SAVE_DIR:-runs}" --seed "${SEED:-42}" "${@:4}"
