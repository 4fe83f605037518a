#!/usr/bin/env bash
# Captures the bad step and replays it: replay.sh [capture program] [gdn command]
set -u
capture=${1:-./capture}
gdn=${2:-gdn}
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1

# Runs a command and compares its exit code with the expected one.
expect() {
    local expected=$1
    shift
    echo "\$ $*"
    "$@" >output.txt 2>&1
    local code=$?
    tail -n 1 output.txt
    if [ $code -ne "$expected" ]; then
        echo "expected exit code $expected, got $code" >&2
        exit 1
    fi
}

expect 0 "$capture" step.h5
expect 4 "$gdn" run step.h5 -o fp32.h5 --backend cpu              # it happens again, and nothing is written
expect 1 "$gdn" gradcheck step.h5 --backend cpu --directions 0    # which gradient, which head, which element
expect 0 "$gdn" run step.h5 -o fp64.h5 --backend reference        # finite in float64: an overflow, not bad inputs
