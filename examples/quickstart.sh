#!/usr/bin/env bash
# Trains a GDN language model on the King James Bible, from nothing: packages, build, dataset, a run that is killed and
# resumed, the same model continued at its context and at 8 times as much, a plot. A few minutes on two cores.
#
# usage: bash examples/quickstart.sh [FOLDER]      FOLDER: where results go; default: build-quickstart/run
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build-quickstart
out=${1:-$build/run}
config=$root/examples/05_quickstart/run.ini
started=$SECONDS
. "$root/cmake/packages.sh"
# Waiting threads sleep: spinning ones cost most of the speed where something else runs too.
export OMP_WAIT_POLICY=passive

say() { printf '\n== %s (%d s)\n' "$*" $((SECONDS - started)); }
fail() { printf 'quickstart: %s\n' "$*" >&2; exit 1; }
# value NAME: the last number after NAME= on stdin.
value() { sed -n "s/.*$1=\([0-9.][0-9.]*\).*/\1/p" | tail -n 1; }

say "packages"
install_packages "${gdn_build_packages[@]}" "$gdn_text_package" || fail "the packages could not be installed"

say "building"
cuda=OFF
if command -v nvcc >/dev/null && nvidia-smi -L >/dev/null 2>&1; then
  cuda=AUTO
fi
cmake -S "$root" -B "$build" -DCMAKE_BUILD_TYPE=Release -DGDN_BUILD_TESTS=OFF -DGDN_BUILD_EXAMPLES=OFF \
  -DGDN_CUDA=$cuda -DGDN_HDF5=ON -DGDN_INIH=ON >"$build.log" 2>&1 || { cat "$build.log" >&2; fail "cmake failed"; }
cmake --build "$build" -j 2 >>"$build.log" 2>&1 || { tail -n 40 "$build.log" >&2; fail "the build failed"; }
mv "$build.log" "$build/build.log"
gdn=$build/bin/gdn

say "dataset: the King James Bible, one verse a line"
mkdir -p "$out"
rm -rf "$out/base" "$out/short" "$out/long"
# -f puts the reference before each verse; the text alone stays.
bible -f gen1:1-rev22:21 </dev/null | sed 's/^[^ ]* //' >"$out/kjv.txt"
[ "$(wc -c <"$out/kjv.txt")" -gt 4000000 ] || fail "bible: expected more than 4 MB of text"
line=$("$gdn" data "$out/kjv.txt" -o "$out/kjv.h5" --heldout 0.008)
echo "$line"
unigram=$(value unigram <<<"$line")
bigram=$(value bigram <<<"$line")

base=("$gdn" train --config "$config" --data "$out/kjv.h5" --out "$out/base")
say "training, killed (SIGKILL) on the way"
"${base[@]}" &
pid=$!
trap 'kill "$pid" 2>/dev/null' EXIT # where the script itself is stopped
while kill -0 $pid 2>/dev/null && ! compgen -G "$out/base/step-*300.h5" >/dev/null; do
  sleep 0.2
done
kill -KILL $pid 2>/dev/null || fail "the run ended before it was killed"
wait $pid 2>/dev/null || true
trap - EXIT

say "resuming: bit for bit as if it had not been killed"
"${base[@]}" --resume

continued=("$gdn" train --config "$config" --data "$out/kjv.h5" --init-from "$out/base" --steps 250 --lr 2e-3 --min-lr 2e-4
  --warmup 10 --eval-every 50)
say "continuing at the same context"
"${continued[@]}" --out "$out/short"
long=("${continued[@]}" --out "$out/long" --context 1024 --sample 300)
if command -v mpirun >/dev/null && grep -q 'MPI: on' "$build/build.log"; then
  say "continuing at 8 times the context, as many tokens, on two ranks"
  ranks=(mpirun -n 2 --oversubscribe --bind-to none)
  [ "$(id -u)" -ne 0 ] || ranks+=(--allow-run-as-root)
  "${ranks[@]}" "${long[@]}" --threads 1
else
  say "continuing at 8 times the context, as many tokens"
  "${long[@]}"
fi

(cd "$out" && "$gdn" plot base short long -o loss.svg)
say "plot: $out/loss.svg"
short=$(value heldout_loss <"$out/short/log.txt")
long=$(value heldout_loss <"$out/long/log.txt")
[ -n "$unigram" ] && [ -n "$bigram" ] && [ -n "$short" ] && [ -n "$long" ] || fail "a figure is missing"
echo "result: heldout_loss=$short unigram=$unigram bigram=$bigram long_context_heldout=$long"
