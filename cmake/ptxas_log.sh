#!/bin/sh
# ptxas_log.sh COMMAND...: a compiler launcher. Keeps what ptxas says about an object in OBJECT.ptxas, where
# tests/src/spills.sh reads it, and passes on the rest.
object= previous=
for word; do
    [ "$previous" = -o ] && object=$word
    previous=$word
done
"$@" 2>"$object.stderr"
code=$?
said='^ptxas info|^ +[0-9]+ bytes (stack frame|gmem)'
grep -E "$said" "$object.stderr" >"$object.ptxas"
grep -vE "$said" "$object.stderr" >&2
rm -f "$object.stderr"
exit $code
