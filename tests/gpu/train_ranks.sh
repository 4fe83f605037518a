#!/usr/bin/env bash
# train_ranks.sh GDN FOLDER MPIRUN...: ranks that share a batch by sequences, or the sequences themselves, share the
# GPUs, and train as one does.
set -euo pipefail
gdn=$1 folder=$2
shift 2
mpirun=("$@")
rm -rf "$folder"
mkdir -p "$folder"
cd "$folder"

fail() {
    echo "FAILED: $*"
    exit 1
}

# train OUT OPTION...: of one rank; ranks OUT OPTION...: of two.
flags=(--data data.h5 --steps 40 --warmup 20 --lr 1e-3 --beta2 0.999 --context 96 --batch-tokens 960 --threads 1
    --eval-tokens 500 --sample 0)
train() { "$gdn" train "${flags[@]}" --out "$@"; }
ranks() { "${mpirun[@]}" -n 2 "$gdn" train "${flags[@]}" --out "$@"; }

seq 1 9000 >text.txt
"$gdn" data text.txt -o data.h5 >data.log
code=0
train one --backend cuda --dtype fp32 >one.log 2>&1 || code=$?
if [ "$code" = 3 ]; then
    echo "skipped: $(cat one.log)"
    exit 77
fi
[ "$code" = 0 ] || fail "one rank: exit $code: $(cat one.log)"
grep -q '^computing on cuda fp32 (' one.log || fail "the log does not name the device: $(cat one.log)"
grep -q '^step 40/40 .* cuda fp32$' one.log || fail "the progress line does not name the backend: $(cat one.log)"

# Each rank with a GPU of its own, or one for both.
way="messages through the host"
if [ "$(nvidia-smi --list-gpus | wc -l)" -ge 2 ] && "$gdn" info | grep -q '^NCCL *[0-9]'; then
    way="messages over NCCL"
fi
echo "$way"
# went LOG: which way they did go.
went() { grep -q "a sequence.*, $way" "$1" || fail "not $way: $(cat "$1")"; }

# Two ranks with five sequences each; losses have four digits, and rounding may move the last.
ranks two --backend cuda --dtype fp32 --sequence-ranks 1 >two.log 2>&1 || fail "two ranks: $(cat two.log)"
last() { sed -n 's/^done: .*loss=\([0-9.]*\) heldout_loss=\([0-9.]*\)$/\1 \2/p' "$1"; }
echo "loss and held-out loss of one rank: $(last one.log), of two: $(last two.log)"
near() {
    echo "$(last "$1") $(last "$2")" | awk 'NF != 4 || ($1 - $3)^2 > 4.1e-8 || ($2 - $4)^2 > 4.1e-8 { exit 1 }'
}
near one.log two.log || fail "the losses differ"
went two.log
grep -q 'step 40/40 .* communication [0-9.]*%' two.log || fail "no share of communication: $(cat two.log)"
cmp -s one/log.txt two/log.txt && fail "two ranks left the log of one"

# Two ranks with half of every sequence.
for recompute in none layer; do
    ranks "shared-$recompute" --backend cuda --dtype fp32 --recompute "$recompute" >shared.log 2>&1 ||
        fail "ranks that share sequences: $(cat shared.log)"
    went shared.log
    grep -q 'each of 2 ranks, 2 a sequence' shared.log || fail "sequences were not shared: $(cat shared.log)"
    echo "of two that share sequences, recompute $recompute: $(last shared.log)"
    near one.log shared.log || fail "the losses differ"
done
echo "passed"
