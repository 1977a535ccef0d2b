#!/usr/bin/env bash
# Transfer to a set of one's own, DATA: its stores tell classes, colours and modalities.
set -euo pipefail
source "$(dirname "$0")/common.sh"

transfer own "s2 s1 s12 ortho" "" "$@"
