# spills.sh BUILD_FOLDER: no kernel spills registers, and no product in kernels/hopper is serialised (any remark
# C75xx of ptxas). Reads the logs of a build with GDN_PTXAS_LOG=ON.
cd "$1" || exit 1
pretty=cat
command -v c++filt >/dev/null && pretty=c++filt
logs=0 kernels=0 bad=0
for log in $(find . -name '*.ptxas'); do
    object=${log%.ptxas}
    # What an earlier build left behind does not count.
    name=${object#./}
    grep -qF -- "${name##*CMakeFiles/}" compile_commands.json || continue
    logs=$((logs + 1))
    kernels=$((kernels + $(grep -c 'Compiling entry function' "$log")))
    found=$(awk -v file="${object##*/__/}" -v hopper="$(expr "$object" : '.*kernels/hopper')" '
        /Function properties for/ { name = $NF }
        /spill stores/ && !/ 0 bytes spill stores, 0 bytes spill loads/ {
            sub(/^ */, ""); print file ": " name ": " $0
        }
        /\(C75[0-9][0-9]\)/ && hopper > 0 { print file ": " $0 }' "$log")
    if [ -n "$found" ]; then
        printf '%s\n' "$found" | $pretty >&2
        bad=$((bad + 1))
    fi
done
if [ "$logs" = 0 ]; then
    echo "skipped: no logs of ptxas (GDN_PTXAS_LOG is off)"
    exit 77
fi
echo "$kernels kernels in $logs objects, $bad objects with spills or serialised products"
[ "$bad" = 0 ] && [ "$kernels" -gt 0 ]
