#!/bin/sh
# killed.sh RANKS COMMAND...: for the first and the last of RANKS ranks: it dies, and all others say that they passed.
ranks=$1
shift
for victim in 0 $((ranks - 1)); do
    said=$("$@" killed $victim 2>&1)
    printf '%s\n' "$said"
    printf '%s\n' "$said" | grep -q '^skipped' && exit 77
    [ "$(printf '%s\n' "$said" | grep -c '^[0-9]* passed, 0 failed$')" = $((ranks - 1)) ] || exit 1
done
