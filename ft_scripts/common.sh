# What the transfer scripts share: they source this file and call `transfer`.

# transfer SET "INPUTS" "FLAGS" [INPUT] [WEIGHTS] [frozen|tuned] [further flags]
transfer() {
  local set=$1 inputs=$2 flags home python
  local input=${4:-${2%% *}} weights=${5:-random} encoder_state=${6:-frozen}
  read -ra flags <<<"$3"
  [[ $input != *" "* && " $inputs " == *" $input "* ]] || usage "$set" "$inputs"
  case $encoder_state in
    frozen) flags+=(--encoder_finetune_tag efix) ;;
    tuned) flags+=(--encoder_finetune_tag etr) ;;
    *) usage "$set" "$inputs" ;;
  esac
  flags+=(--input_type "$input" --weight_path "$weights" --data_path "${DATA:-}" --save_dir "${SAVE_DIR:-runs}")
  environment_flags
  home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  python=$home/.venv/bin/python
  [[ -x $python ]] || python=python3
  exec "${PYTHON:-$python}" "$home/train_scripts/finetune.py" --config "$home/train_scripts/configs/ft_$set.yaml" \
    "${flags[@]}" "${@:7}"
}

# Append to the caller's flags what the environment asks for.
environment_flags() {
  local seeds
  if [[ -n ${SMALL:-} ]]; then # a minute or less on two CPU cores
    flags+=(--model_type resnet18 --synthetic_tiles 24 16 --synthetic_size 128 --n_train 0 --crop_size 96)
    flags+=(--epochs 20 --batch_size 8 --learning_rate 1e-3)
    [[ $set != oscd ]] || flags+=(--synthetic_tiles 12 4) # cities, of about two tiles each
  fi
  [[ -z ${ENCODER:-} ]] || flags+=(--model_type "$ENCODER")
  [[ -z ${FRACTION:-} ]] || flags+=(--n_train 0 --fraction "$FRACTION")
  read -ra seeds <<<"${SEED:-42}"
  flags+=(--seed "${seeds[@]}")
}

usage() {
  cat >&2 <<TEXT
usage: bash ft_scripts/ft_$1.sh [${2// /|}] [WEIGHTS] [frozen|tuned] [further flags of finetune.py]

WEIGHTS is random, imagenet or a checkpoint file. Environment:
  DATA      folder with train/ and test/ stores, as data_prepare writes them; empty for the synthetic set
  ENCODER   encoder of the weights         (as in train_scripts/configs/ft_$1.yaml)
  SEED      one seed or several            (42)
  FRACTION  percent of the training tiles  (100)
  SMALL     1 for ResNet-18 on a few small tiles, 20 epochs
  SAVE_DIR  parent of the run folders      (runs)
  PYTHON    interpreter                    (.venv/bin/python if there, else python3)
TEXT
  exit 2
}
