#!/bin/sh
# torch.sh SCRIPT.py ARGUMENT...: runs a script beside this one with a Python that may have torch and transformers.
python=${GDN_TEST_TORCH_PYTHON:-python3}
command -v "$python" >/dev/null || { echo "skipped: no $python"; exit 77; }
script=$(dirname "$0")/$1
shift
exec "$python" "$script" "$@"
