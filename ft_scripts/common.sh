# What the transfer scripts share: they source this file and call `transfer`.

# transfer SET "INPUTS" "FLAGS" [INPUT] [WEIGHTS] [frozen|tuned] [further flags]
transfer() {
  local set=$1 inputs=$2 flags home python
  local input=${4:-${2%% *}} weights=${5:-random} encoder_state=${6:-frozen}
  read -ra flags <<<"$3"
  refuse_flags_as_words "${@:4:3}"
  [[ $input != *" "* && " $inputs " == *" $input "* ]] || usage "'$input' is no input (${inputs// /, })"
  case $encoder_state in
    frozen) flags+=(--encoder_finetune_tag efix) ;;
    tuned) flags+=(--encoder_finetune_tag etr) ;;
    *) usage "'$encoder_state' is neither frozen nor tuned" ;;
  esac
  flags+=(--input_type "$input" --weight_path "$weights" --data_path "${DATA:-}" --save_dir "${SAVE_DIR:-runs}")
  environment_flags
  home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  find_python
  exec "$python" "$home/train_scripts/finetune.py" --config "$home/train_scripts/configs/ft_$set.yaml" \
    "${flags[@]}" "${@:7}"
}

# The first three words are no flags; --help alone asks for the usage.
refuse_flags_as_words() {
  local word
  for word; do
    [[ $word != -h && $word != --help ]] || usage
    [[ $word != -* ]] || usage "'$word': flags follow after frozen|tuned"
  done
}

# Append to the caller's flags what the environment asks for.
environment_flags() {
  local seed seeds
  if [[ -n ${SMALL:-} ]]; then # a minute or less on two CPU cores
    flags+=(--model_type resnet18 --synthetic_tiles 24 16 --synthetic_size 128 --n_train 0 --crop_size 96)
    flags+=(--epochs 20 --batch_size 8 --learning_rate 1e-3)
    [[ $set != oscd ]] || flags+=(--synthetic_tiles 12 4) # cities, of about two tiles each
  fi
  encoder_flags
  [[ -z ${FRACTION:-} ]] || flags+=(--n_train 0 --fraction "$FRACTION")
  read -ra seeds <<<"${SEED:-42}"
  for seed in "${seeds[@]}"; do
    [[ $seed =~ ^[0-9]+$ ]] || usage "SEED='$SEED': separate seeds, whole numbers, by blanks"
  done
  flags+=(--seed "${seeds[@]}")
}

# Append to the caller's flags ENCODER, with the bands it takes, and HEAD, which for ViTs is UPerNet unless set.
encoder_flags() {
  local head=${HEAD:-}
  case ${ENCODER:-} in
    satmae_*) flags+=(--n_channels 10) ;;
    scalemae_*) flags+=(--n_channels 3) ;;
    dofa_*) flags+=(--n_channels 92) ;;
  esac
  case ${ENCODER:-} in
    vit_* | satmae_* | scalemae_* | dofa_*) head=${head:-upernet} ;;
  esac
  [[ -z ${ENCODER:-} ]] || flags+=(--model_type "$ENCODER")
  [[ -z $head ]] || flags+=(--model_framework "$head")
}

# Set the caller's python: an interpreter that has the packages.
find_python() {
  local code='import sys; from importlib.util import find_spec; sys.exit(not all(map(find_spec, sys.argv[1:])))'
  python=$home/.venv/bin/python
  [[ -x $python ]] || python=python3
  python=${PYTHON:-$python}
  if ! "$python" -P -c "$code" torch lightning cromss >/dev/null 2>&1; then
    echo "error: $python lacks the packages; run make .venv/ready, or set PYTHON" >&2
    exit 1
  fi
}

# usage [what is wrong], with the caller's set and inputs
usage() {
  local without="empty for the synthetic set"
  [[ $set != own ]] || without="it must be given"
  [[ -z ${1:-} ]] || echo "error: $1" >&2
  cat >&2 <<TEXT
usage: bash ft_scripts/ft_$set.sh [${inputs// /|}] [WEIGHTS] [frozen|tuned] [further flags of finetune.py]

WEIGHTS is random, imagenet, a checkpoint file or the folder of a run. Environment:
  DATA      folder with train/ and test/ stores, as data_prepare writes them; $without
  ENCODER   encoder of the weights         (as in train_scripts/configs/ft_$set.yaml)
            satmae_* takes 10 bands, scalemae_* 3, dofa_* 9 (RGB first), unless --n_channels says otherwise
  HEAD      segmentation head              (upernet for ViTs: vit_*, satmae_*, scalemae_*, dofa_*; else the set's)
  SEED      one seed or several            (42)
  FRACTION  percent of the training tiles  (100)
  SMALL     1 for ResNet-18, or ENCODER, on a few small tiles, 20 epochs
  SAVE_DIR  parent of the run folders      (runs)
  PYTHON    interpreter                    (.venv/bin/python if there, else python3)
TEXT
  exit 2
}
