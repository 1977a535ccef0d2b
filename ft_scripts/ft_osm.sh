#!/usr/bin/env bash
# Transfer to SSL4EO-S12@OSM as published: FPN, crops of 480 pixels, 13 classes.
set -euo pipefail
source "$(dirname "$0")/common.sh"

transfer osm "s2 s1 s12" "" "$@"
