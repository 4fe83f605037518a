#!/usr/bin/env bash
# The test command: installs what is missing, builds with and without CUDA, runs the CTest labels cpu and dist, then
# the same C code under ASan and UBSan. Needs Debian or Ubuntu, root or sudo; no GPU. Under 15 minutes on two cores.
#
#   bash tests/run.sh            everything
#   bash tests/run.sh slow       the long tests too (label slow)
set -euo pipefail
cd "$(dirname "$0")/.."
. cmake/packages.sh

labels='cpu|dist'
exclude='slow'
case "${1-}" in
'') ;;
slow) exclude='gpu' ;;
*)
    echo "usage: bash tests/run.sh [slow]" >&2
    exit 2
    ;;
esac
[ "$exclude" = gpu ] && labels='cpu|dist|slow'

step() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

step "packages"
install_packages "${gdn_build_packages[@]}" "${gdn_test_packages[@]}"

jobs=$(nproc)
configure() { # folder, options
    local folder=$1
    shift
    cmake -S . -B "$folder" -DGDN_WERROR=ON "$@" >"$folder.log" 2>&1 || {
        cat "$folder.log"
        return 1
    }
    sed -n '/libgdn/,$p' "$folder.log" | grep -E 'libgdn|: o|sanit' || true
}
compile() { # folder, targets
    cmake --build "$1" -j "$jobs" ${2:+--target "${@:2}"} -- --no-print-directory -s
}
mkdir -p build

step "build"
configure build/test -DGDN_CUDA=OFF -DGDN_PARALLEL_HDF5=ON
compile build/test

# nvcc takes as long as the tests, which leave a core idle half of the time: it runs behind them.
cuda=
if command -v nvcc >/dev/null; then
    step "build with CUDA, beside the tests"
    # One architecture: all of them take six minutes on two cores.
    configure build/test-cuda -DGDN_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES=90a-real -DGDN_PTXAS_LOG=ON \
        -DGDN_BUILD_EXAMPLES=OFF
    # What the other builds do not have.
    mapfile -t targets < <(cmake --build build/test-cuda --target help |
        sed -n 's/^\.\.\. \(gdn_cli\|test_gpu_.*\|test_dist_.*\|bench_.*\)$/\1/p')
    {
        renice -n 19 "$BASHPID" >/dev/null
        compile build/test-cuda "${targets[@]}"
    } >build/test-cuda.txt 2>&1 &
    cuda=$!
    trap 'kill "$cuda" 2>/dev/null || true' EXIT
else
    step "no nvcc: the CUDA code is not compiled"
fi

step "tests"
ctest --test-dir build/test -j "$jobs" -L "$labels" -LE "$exclude" --output-on-failure --no-tests=error

if [ -n "$cuda" ]; then
    step "rest of the build with CUDA"
    wait "$cuda" || {
        tail -n 50 build/test-cuda.txt
        exit 1
    }
    trap - EXIT
    build/test-cuda/bin/gdn info
    ctest --test-dir build/test-cuda -R '^src\.spills' --output-on-failure --no-tests=error
fi

step "build with ASan and UBSan"
# With the serial HDF5, where the other build has the parallel one.
configure build/test-sanitize -DGDN_CUDA=OFF -DGDN_PARALLEL_HDF5=OFF -DGDN_SANITIZE=address,undefined \
    -DCMAKE_BUILD_TYPE=RelWithDebInfo -DGDN_BUILD_EXAMPLES=OFF
compile build/test-sanitize

# Leaks of OpenMP's and HDF5's own pools are not ours to find; everything else stays on.
step "tests under ASan and UBSan"
ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
    ctest --test-dir build/test-sanitize -j "$jobs" -L 'cpu|dist' -LE 'slow|unsanitized' --output-on-failure --no-tests=error

step "done"
