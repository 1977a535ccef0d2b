#!/usr/bin/env bash
# Change detection on OSCD as in the first paper: U-Net on the differences between two dates.
set -euo pipefail
source "$(dirname "$0")/common.sh"

transfer oscd "s2" "" "$@"
