# exports.sh LIBRARY EXPORTS_MAP: nothing leaves the library but gdn_* and the internal names that the map lists.
symbols=$(nm -D --defined-only "$1" | awk '$2 ~ /[A-Z]/ && $2 != "A" { print $3 }')
case "$symbols" in *gdn_forward*) ;; *)
    echo "$1 exports no gdn_forward" >&2
    exit 1
    ;;
esac
listed=$(sed -n 's/^ *\(gdni_[a-z_0-9]*\);.*/\1/p' "$2" | paste -sd '|')
foreign=$(printf '%s\n' "$symbols" | grep -vE "^(gdn_[a-z0-9_]+|$listed|__[a-z]*san.*|__odr_asan.*)\$")
if [ -n "$foreign" ]; then
    echo "exported, but not public: $foreign" >&2
    exit 1
fi
echo "$(printf '%s\n' "$symbols" | wc -l) passed, 0 failed"
