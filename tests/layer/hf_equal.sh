#!/bin/sh
# hf_equal.sh LIBGDN.so: runs hf_equal.py with a Python that may have torch and transformers.
python=${GDN_TEST_TORCH_PYTHON:-python3}
command -v "$python" >/dev/null || { echo "skipped: no $python"; exit 77; }
exec "$python" "$(dirname "$0")/hf_equal.py" "$1"
