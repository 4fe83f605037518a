# spills_found.sh SPILLS.SH: the check for spills finds them, names the kernel, and sees nothing where nothing is.
check=$(realpath "$1")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
passed=0 failed=0

# expect CODE WORD: what the check says of the folder.
expect() {
    said=$(sh "$check" "$folder" 2>&1)
    code=$?
    case "$code:$said" in
    "$1:"*"$2"*) passed=$((passed + 1)) ;;
    *)
        failed=$((failed + 1))
        echo "FAILED: exit $code, expected $1 and '$2': $said" >&2
        ;;
    esac
}

log() { # object, spill stores, a remark
    mkdir -p "${1%/*}"
    cat >"$1.ptxas" <<END
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'a_kernel' for 'sm_90a'
ptxas info    : Function properties for a_kernel
    0 bytes stack frame, $2 bytes spill stores, $2 bytes spill loads
ptxas info    : Used 168 registers, used 1 barriers${3:+
ptxas info    : ($3) Potential Performance Loss: wgmma.mma_async instructions are serialized}
END
    echo "\"command\": \"nvcc -o $1\"" >>compile_commands.json
}

: >compile_commands.json
expect 77 skipped
log kernels/portable/a.cu.o 0
expect 0 '1 kernels in 1 objects, 0 objects'
log kernels/portable/b.cu.o 8
expect 1 'b.cu.o: a_kernel: 0 bytes stack frame, 8 bytes spill stores'
log kernels/portable/b.cu.o 0 C7510
log kernels/hopper/forward/c.cu.o 0
expect 0 '3 kernels in 3 objects'
log kernels/hopper/forward/c.cu.o 0 C7514
expect 1 C7514
rm compile_commands.json
: >compile_commands.json
expect 77 skipped
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
