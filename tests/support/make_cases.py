#!/usr/bin/env python3
"""Writes the named operator cases and their float64 results.

    make_cases.py DIR [NAME ...]         NAME.case.h5 and NAME.result.h5 each; needs numpy and h5py

q, k, v and do are rounded to bf16 first, so that every backend and dtype sees the same numbers.
"""
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np

import oracle

# Sequence lengths, Hk, Hv, K, V, and what departs from the defaults of build().
CASES = {
    "one_token": ([1], 1, 2, 128, 128, {}),
    "chunk_minus_one": ([63], 1, 1, 128, 128, dict(gate="weak")),
    "chunk_exact": ([64], 2, 2, 128, 128, dict(gate="none")),
    "chunk_plus_one": ([65], 1, 3, 128, 128, {}),
    "gva4_prime": ([257], 1, 4, 128, 128, {}),
    "no_gate_long": ([640], 1, 1, 128, 128, dict(gate="none")),
    "strong_gate": ([320], 1, 2, 128, 128, dict(gate="strong")),
    "saturating_gate": ([320], 1, 2, 128, 128, dict(gate="saturating")),
    "correlated_keys": ([192], 1, 2, 128, 128, dict(gate="weak", correlated=True)),
    "beta_edges": ([130], 1, 2, 128, 128, dict(beta_edges=True)),
    "packed": ([5, 64, 0, 129, 1, 70], 2, 4, 128, 128, {}),
    "packed_padded": ([33, 100], 1, 2, 128, 128, dict(padding=27)),
    "no_states": ([100], 1, 2, 128, 128, dict(states=False)),
    "dims_64": ([150], 2, 2, 64, 64, {}),
    "dims_mixed": ([100], 1, 2, 96, 160, {}),
    "dims_small": ([70, 20], 2, 4, 16, 32, {}),
}


def to_bf16(x):
    """float32 values that bf16 holds, by rounding to nearest even."""
    bits = np.ascontiguousarray(x, np.float32).view(np.uint32)
    odd = (bits >> 16) & 1
    return ((bits + 0x7FFF + odd) & np.uint32(0xFFFF0000)).view(np.float32)


def draw_gates(kind, shape, rng):
    """Logs of the forget gate, <= 0."""
    softplus = np.log1p(np.exp(0.5 * rng.standard_normal(shape) + 1))
    if kind == "none":
        return np.zeros(shape)
    if kind == "weak":
        return -softplus / 100
    if kind == "strong":
        return -16 * softplus
    if kind == "saturating":  # a few tokens forget everything, the others next to nothing
        return np.where(rng.random(shape) < 0.05, -60.0, -0.01 * softplus)
    return -np.geomspace(1e-3, 16, shape[1]) * softplus  # mixed over the heads


def build(name):
    """Inputs of a named case. The order of the draws is part of the cases."""
    lengths, Hk, Hv, K, V, options = CASES[name]
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    T, N = sum(lengths) + options.get("padding", 0), len(lengths)

    def unit(x):
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    k = rng.standard_normal((T, Hk, K))
    if options.get("correlated"):
        k = 0.1 * k + rng.standard_normal((1, Hk, K))
    case = {"q": to_bf16(unit(rng.standard_normal((T, Hk, K)))), "k": to_bf16(unit(k))}
    case["v"] = to_bf16(rng.standard_normal((T, Hv, V)))
    case["g"] = draw_gates(options.get("gate", "mixed"), (T, Hv), rng).astype(np.float32)
    case["do"] = to_bf16(rng.standard_normal((T, Hv, V)))
    beta = 1 / (1 + np.exp(-rng.standard_normal((T, Hv))))
    if options.get("beta_edges"):
        zero = rng.random(beta.shape) < 0.3
        one = rng.random(beta.shape) < 0.4
        beta = np.where(zero, 0.0, np.where(one, 1.0, beta))
    case["beta"] = beta.astype(np.float32)
    if options.get("states", True):
        case["initial_state"] = rng.standard_normal((N, Hv, K, V)).astype(np.float32)
        case["dht"] = (rng.standard_normal((N, Hv, K, V)) / 8).astype(np.float32)
    case["cu_seqlens"] = np.cumsum([0] + lengths).astype(np.int64)
    return case


def write(path, kind, tensors, **attributes):
    """kind: "gdn-case", "gdn-result", ..."""
    with h5py.File(path, "w") as f:
        f.attrs["format"] = kind
        f.attrs["version"] = np.int32(1)
        for name, value in attributes.items():
            f.attrs[name] = value
        for name, value in tensors.items():
            f[name] = value


def write_result(path, tensors):
    write(path, "gdn-result", tensors, backend="oracle", dtype="fp64", library_version="oracle",
          ranks=np.int32(1))


def main():
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[2:] or CASES:
        case = build(name)
        write(directory / f"{name}.case.h5", "gdn-case", case)
        write_result(directory / f"{name}.result.h5", oracle.solve(case))


if __name__ == "__main__":
    main()
