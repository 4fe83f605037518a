# check.sh: runs the quick start into a temporary folder and checks its last line.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
command -v bible >/dev/null || {
    echo "skipped: the package bible-kjv is not installed"
    exit 77
}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

last=$(bash "$root/examples/quickstart.sh" "$out" | tee "$out/output" | tail -n 1) || {
    tail -n 40 "$out/output"
    exit 1
}
echo "$last"
[ -s "$out/loss.svg" ]
number='[0-9]+\.[0-9]+'
[[ $last =~ ^result:\ heldout_loss=($number)\ unigram=($number)\ bigram=($number)\ long_context_heldout=($number)$ ]]
# Below what bytes and pairs of bytes give, and the long context no worse than the short one.
awk -v x="${BASH_REMATCH[1]}" -v y="${BASH_REMATCH[2]}" -v z="${BASH_REMATCH[3]}" -v w="${BASH_REMATCH[4]}" \
    'BEGIN { exit !(x < y - 1 && x < z && w <= x) }'
echo "1 passed, 0 failed"
