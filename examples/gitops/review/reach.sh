#!/bin/sh
# What a change of manifests lets agents reach. Usage: reach.sh BASE HEAD OUT.md
# Writes the comment and ends as `aiosctl diff` does: 0 nothing gained, 3 something, 4 something that asks for a second look; all else: errors.
set -u
aiosctl lint "$2" >&2 || exit 1
aiosctl diff --format markdown "$1" "$2" >"$3"
