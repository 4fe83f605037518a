# format.sh SOURCE_DIR: clang-format, file length, unfinished marks. Looks at what git tracks.
cd "$1" || exit 1
if ! command -v clang-format >/dev/null; then
    echo "skipped: no clang-format"
    exit 77
fi
if ! files=$(git ls-files '*.c' '*.h' '*.cc' '*.cpp' '*.cu' '*.cuh' 2>/dev/null) || [ -z "$files" ]; then
    echo "skipped: not a git checkout"
    exit 77
fi
failed=0
for file in $files; do
    clang-format --dry-run -Werror "$file" || failed=$((failed + 1))
    if [ "$(wc -l <"$file")" -gt 600 ]; then
        echo "$file: longer than 600 lines" >&2
        failed=$((failed + 1))
    fi
done
if git grep -nIE 'TODO|FIXME|XXX' -- '*.c' '*.h' '*.cc' '*.cu' '*.cuh' >&2; then
    failed=$((failed + 1))
fi
echo "$(printf '%s\n' "$files" | wc -l) files, $failed failed"
[ "$failed" = 0 ]
