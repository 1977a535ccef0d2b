#!/usr/bin/env bash
# Transfer to DFC2020 as published: PSPNet, crops of 256 pixels, 8 classes.
set -euo pipefail
source "$(dirname "$0")/common.sh"

transfer dfc2020 "s2 s1 s12" "" "$@"
