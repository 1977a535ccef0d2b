#!/usr/bin/env bash
# Transfer to SSL4EO-S12@DW as published: DeepLabv3+, crops of 496 pixels, 9 classes.
set -euo pipefail
source "$(dirname "$0")/common.sh"

transfer dw "s2 s1 s12" "" "$@"
