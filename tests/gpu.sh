#!/usr/bin/env bash
# On a machine with a GPU and the CUDA toolkit: builds for its architecture, tests, looks for wrong accesses and races,
# measures. Each part ends within 8 minutes, its build included.
#
#   bash tests/gpu.sh [build|test|sanitize|stress|bench|train|dist]...     no argument: all
#
# What the parts say goes to build-gpu/results/PART.txt as it comes, or to the folder in GDN_RESULTS; the bench's
# tables to tests/bench/results. The commit of a tree without .git is taken from GDN_COMMIT or a file COMMIT.
set -uo pipefail
cd "$(dirname "$0")/.."
folder=build-gpu
results=${GDN_RESULTS:-$folder/results}
known=(build test sanitize stress bench train dist)
limit=480 # seconds a part

build() {
    local capability
    capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
    [ "$capability" = 90 ] && capability=90a
    cmake -S . -B "$folder" -DGDN_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES="$capability-real" >"$folder.log" 2>&1 || {
        cat "$folder.log"
        return 1
    }
    sed -n '/libgdn/,$p' "$folder.log"
    cmake --build "$folder" -j "$(nproc)" -- --no-print-directory -s
}

count_tests() { ctest --test-dir "$folder" -N "$@" | sed -n 's/^Total Tests: //p'; }

# run_tests WHAT CTEST_OPTIONS: 3 where no test is chosen.
run_tests() {
    local what=$1
    shift
    if [ "$(count_tests "$@")" = 0 ]; then
        echo "nothing there yet: no test $what"
        return 3
    fi
    ctest --test-dir "$folder" "$@" --output-on-failure
}

test_all() { run_tests "has the label gpu" -L '^gpu$' -LE stress -E '^gpu\.(stress|train|dist)' -j 4; }
stress() { run_tests "is named gpu.stress*" -R '^gpu\.stress'; }
# The tests, then where the time of a step of 0.4 billion parameters goes; with several GPUs, 131072 tokens of one sequence
# for each of one, two, four, eight, and 262144 on all of them together.
train() {
    local ranks=1 gpus tokens
    run_tests "is named gpu.train*" -R '^gpu\.train' && "$folder/bin/bench_train_step" || return 1
    gpus=$(nvidia-smi --list-gpus | wc -l)
    while [ "$gpus" -gt 1 ] && [ "$ranks" -le "$gpus" ] && [ "$ranks" -le 8 ]; do
        for tokens in $((131072 * ranks)) 262144; do
            mpirun -n "$ranks" --oversubscribe --bind-to none "$folder/bin/bench_train_step" \
                tokens="$tokens" context="$tokens" steps=3 warm_up=2 || return 1
        done
        ranks=$((2 * ranks))
    done
}
# The tests, some of which want two GPUs; then 131072 tokens a rank over NCCL, a rank for each of up to eight GPUs.
dist() {
    local code ranks=1 gpus
    run_tests "is named gpu.dist*" -R '^gpu\.dist'
    code=$?
    "$folder/bin/gdn" info | grep -q '^NCCL *[0-9]' || return $code
    gpus=$(nvidia-smi --list-gpus | wc -l)
    while [ "$code" = 0 ] && [ "$ranks" -le "$gpus" ] && [ "$ranks" -le 8 ]; do
        mpirun -n "$ranks" --oversubscribe --bind-to none "$folder/bin/bench_shards" 131072 5 nccl || return 1
        ranks=$((2 * ranks))
    done
    return $code
}

# racecheck follows what a thread's own arrival at an mbarrier publishes, not what its warp did before a __syncwarp. Hence
# all lanes arrive where a kernel says that memory is free again. In fused_kernel and fused_queue_kernel, which none of
# these cases runs, a lane still arrives for its warp at barriers of another CTA, and racecheck reports what lies in its
# slots.
#
# Every sixteenth case, and every tenth of cut sequences: each launch is replayed many times. All runs side by side, as
# the device is hardly used; each one's output stays in a file of its own.
sanitize() {
    local tool run words log logs=$results/sanitize running=() failed=0
    rm -rf "$logs"
    mkdir -p "$logs"
    for tool in memcheck synccheck initcheck racecheck; do
        for run in "operator 1 16" "operator 1 16 portable" "split 3 10" "split 3 10 portable"; do
            read -ra words <<<"$run"
            log=$logs/$tool-${run// /-}.txt
            compute-sanitizer --tool $tool --error-exitcode 1 \
                "$folder/bin/test_gpu_${words[0]}" "${words[@]:1}" >"$log" 2>&1 &
            running+=($! "$log")
        done
    done
    set -- "${running[@]}"
    while [ $# -gt 0 ]; do
        log=$2
        if wait "$1"; then
            echo "clean   $(basename "$log" .txt): $(tail -1 "$log")"
        else
            failed=1
            echo "FAILED  $(basename "$log" .txt), see $log:"
            grep -v '^=* *$' "$log" | head -20
        fi
        shift 2
    done
    return $failed
}

bench() {
    local commit=${GDN_COMMIT:-} code rows
    [ -n "$commit" ] || commit=$(git rev-parse --short HEAD 2>/dev/null || cat COMMIT 2>/dev/null || echo unknown)
    "$folder/bin/gdn" bench --rows tests/bench/published_h200.csv --commit "$commit"
    code=$?
    # These want the memory of an H200.
    if [ "$(nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits | head -1)" -gt 130000 ]; then
        for rows in groups lengths; do
            "$folder/bin/gdn" bench --rows "tests/bench/$rows.csv" --label "$rows" --repeat 10 --commit "$commit" ||
                code=1
        done
    fi
    "$folder/bin/gdn" bench --memory && return $code
}

part() {
    if [ "$1" != build ] && [ ! -x "$folder/bin/gdn" ]; then
        build || return 1
    fi
    case "$1" in
    test) test_all ;;
    *) "$1" ;;
    esac
}

# bash tests/gpu.sh --one PART: a part in a process of its own, which the limit can end.
if [ "${1-}" = --one ]; then
    part "$2"
    exit
fi

parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=("${known[@]}")
for name in "${parts[@]}"; do
    case " ${known[*]} " in
    *" $name "*) ;;
    *)
        echo "usage: bash tests/gpu.sh [build|test|sanitize|stress|bench|train|dist]..." >&2
        exit 2
        ;;
    esac
done
# Open MPI refuses to run as root unless told.
[ "$(id -u)" != 0 ] || export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

command -v nvidia-smi >/dev/null || {
    echo "tests/gpu.sh: nvidia-smi is not there; this is for a machine with a GPU" >&2
    exit 2
}
mkdir -p "$results"
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | tee "$results/summary.txt"
failed=0
for name in "${parts[@]}"; do
    start=$SECONDS
    printf '\n== %s\n' "$name"
    timeout "$limit" bash tests/gpu.sh --one "$name" 2>&1 | tee "$results/$name.txt"
    case ${PIPESTATUS[0]} in
    0) verdict=passed ;;
    3) verdict="nothing there yet" ;;
    124) verdict="FAILED: not done after $limit s" ;;
    *) verdict=FAILED ;;
    esac
    [ "${verdict#FAILED}" = "$verdict" ] || failed=1
    printf '%-9s %-20s %4d s\n' "$name" "$verdict" $((SECONDS - start)) >>"$results/summary.txt"
done
printf '\n== summary\n'
cat "$results/summary.txt"
exit $failed
