#!/usr/bin/env bash
# On a machine with a GPU and the CUDA toolkit: builds for its architecture, runs the CTest label gpu,
# compute-sanitizer on a small set, and times. Each part stays under 8 minutes.
#
#   bash tests/gpu.sh [build|test|sanitize|bench]...     no argument: all
set -euo pipefail
cd "$(dirname "$0")/.."
folder=build-gpu
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(build test sanitize bench)

step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

build() {
    local capability
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
    [ "$capability" = 90 ] && capability=90a
    cmake -S . -B "$folder" -DGDN_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES="$capability-real" >"$folder.log"
    sed -n '/libgdn/,$p' "$folder.log"
    cmake --build "$folder" -j "$(nproc)" -- --no-print-directory -s
}

run_tests() { ctest --test-dir "$folder" -L gpu --output-on-failure -j 4; }

# Every eighth case, and for races and initialisation fewer: each launch is replayed many times.
sanitize() {
    local tool
    for tool in memcheck synccheck initcheck racecheck; do
        echo "-- $tool"
        compute-sanitizer --tool "$tool" --error-exitcode 1 "$folder/bin/test_gpu_operator" 1 16
    done
}

bench() {
    "$folder/bin/gpu_time" fwd 16 64 32768 fwd 16 32 32768 fwd 2 8 32768 fwd 16 64 8192 \
        bwd 16 32 32768 bwd 16 32 8192 bwd 4 8 32768
}

for part in "${parts[@]}"; do
    step "$part"
    case "$part" in
    build) build ;;
    test) run_tests ;;
    sanitize) sanitize ;;
    bench) bench ;;
    *)
        echo "usage: bash tests/gpu.sh [build|test|sanitize|bench]..." >&2
        exit 2
        ;;
    esac
done
