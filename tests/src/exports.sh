# exports.sh LIBRARY
symbols=$(nm -D --defined-only "$1" | awk '$2 ~ /[A-Z]/ && $2 != "A" { print $3 }')
case "$symbols" in *gdn_forward*) ;; *)
    echo "$1 exports no gdn_forward" >&2
    exit 1
    ;;
esac
foreign=$(printf '%s\n' "$symbols" | grep -vE '^(gdn_[a-z0-9_]+|gdni_fail|gdni_clear_error)$' |
    grep -vE '^(__asan|__ubsan|__odr_asan)')
if [ -n "$foreign" ]; then
    echo "exported, but not public: $foreign" >&2
    exit 1
fi
echo "$(printf '%s\n' "$symbols" | wc -l) passed, 0 failed"
