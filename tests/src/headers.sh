# headers.sh CC CXX SOURCE_DIR
cc=$1 cxx=$2 top=$3 failed=0 passed=0
for header in "$top"/src/gdn*.h "$top"/io/gdn_io.h "$top"/dist/gdn_dist.h; do
    if $cc -std=c11 -Wall -Wextra -Wpedantic -Werror -I"$top/src" -fsyntax-only -x c "$header" &&
        $cxx -std=c++17 -Wall -Wextra -Wpedantic -Werror -I"$top/src" -fsyntax-only -x c++ "$header"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
    fi
    if grep -nE '#include <(mpi|nccl|hdf5|cuda|H5)' "$header"; then
        echo "$header includes a foreign header" >&2
        failed=$((failed + 1))
    fi
done
echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -ge 5 ]
