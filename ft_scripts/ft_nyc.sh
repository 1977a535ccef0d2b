#!/usr/bin/env bash
# Transfer to NYC orthophotos as in the first paper: 100 pairs, U-Net if frozen, DeepLabv3+ if tuned.
set -euo pipefail
source "$(dirname "$0")/common.sh"

head=unet
[[ ${3:-frozen} == frozen ]] || head=deeplabv3plus
transfer nyc ortho "--model_framework $head" "$@"
