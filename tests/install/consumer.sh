# consumer.sh BUILD_DIR CONSUMER_DIR EXAMPLE_DIR NCCL_EXAMPLE_DIR: installs into a temporary prefix and builds programs against it.
set -euo pipefail
build=$1 source=$2 example=$3 nccl_example=$4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cmake --install "$build" --prefix "$work/prefix" >/dev/null
"$work/prefix/bin/gdn" --version

cp -r "$source" "$work/consumer"
cmake -S "$work/consumer" -B "$work/consumer/build" -DCMAKE_PREFIX_PATH="$work/prefix" >/dev/null
cmake --build "$work/consumer/build" -- -s
"$work/consumer/build/consumer_c"
"$work/consumer/build/consumer_cpp"

cp -r "$example" "$work/example"
cmake -S "$work/example" -B "$work/example/build" -DCMAKE_PREFIX_PATH="$work/prefix" \
    -DCMAKE_BUILD_TYPE=Release >/dev/null
cmake --build "$work/example/build" -- -s
"$work/example/build/cpp_trainer"

# Built wherever NCCL is; run where there is a GPU, too.
if "$work/prefix/bin/gdn" info | grep -q '^NCCL *[0-9]'; then
    cp -r "$nccl_example" "$work/nccl"
    cmake -S "$work/nccl" -B "$work/nccl/build" -DCMAKE_PREFIX_PATH="$work/prefix" >/dev/null
    cmake --build "$work/nccl/build" -- -s
    if nvidia-smi >/dev/null 2>&1; then
        mpirun -n 1 --allow-run-as-root "$work/nccl/build/own_communicators"
    fi
fi

PKG_CONFIG_PATH=$(dirname "$(find "$work/prefix" -name gdn.pc)")
libdir=$(dirname "$PKG_CONFIG_PATH")
export PKG_CONFIG_PATH
flags=$(pkg-config --define-variable=prefix="$work/prefix" --cflags --libs gdn_io)
cc -std=c11 -Wall -Wextra -Wpedantic -Werror "$source/main.c" $flags -Wl,-rpath,"$libdir" -lm -o "$work/c"
c++ -std=c++17 -Wall -Wextra -Wpedantic -Werror "$source/main.cpp" $flags -Wl,-rpath,"$libdir" -o "$work/cpp"
"$work/c"
"$work/cpp"
echo "5 passed, 0 failed"
