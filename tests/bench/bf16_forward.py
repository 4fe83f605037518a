#!/usr/bin/env python3
"""What bf16 operands cost forward where keys are nearly the same: its arithmetic in numpy.

    bf16_forward.py      needs numpy and h5py

Everything is float64 but for what a variant rounds. Prints the relative L2 errors of o and of the
final state of single heads, 1024 tokens long, against the recurrence, by the keys' mutual cosine
(tests/gpu/stress.c quotes them). "two": as two bf16 terms, at twice the products.
"""
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
import make_cases  # noqa: E402

CHUNK, TOKENS, DIM, HEADS = 64, 1024, 128, 3


def bf16(x):
    return make_cases.to_bf16(np.asarray(x, np.float32)).astype(np.float64)


def two(x):
    high = bf16(x)
    return high + bf16(x - high)


# inverse: Gam o T diag(beta); D: the new values; state; rest: V - e^c U and P.
VARIANTS = {
    "all in bf16": dict(inverse=bf16, D=bf16, state=bf16, rest=bf16),
    "inverse alone": dict(inverse=bf16),
    "D alone": dict(D=bf16),
    "inverse in two": dict(inverse=two, D=bf16, state=bf16, rest=bf16),
    "D in two": dict(inverse=bf16, D=two, state=bf16, rest=bf16),
    "both in two": dict(inverse=two, D=two, state=bf16, rest=bf16),
}


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def draw(seed, A, cosine):
    rng = np.random.default_rng(seed)
    noise = (1 / cosine - 1) ** 0.5
    q = bf16(unit(rng.standard_normal((TOKENS, DIM))))
    k = bf16(unit(rng.standard_normal((1, DIM)) + noise * rng.standard_normal((TOKENS, DIM))))
    v = bf16(rng.standard_normal((TOKENS, DIM)))
    g = -A * np.log1p(np.exp(rng.standard_normal(TOKENS)))
    beta = 1 / (1 + np.exp(-rng.standard_normal(TOKENS)))
    return q, k, v, g, beta, rng.standard_normal((DIM, DIM))


def recurrence(q, k, v, g, beta, S):
    o = np.zeros_like(v)
    for t in range(TOKENS):
        S = np.exp(g[t]) * S
        S = S + np.outer(k[t], beta[t] * (v[t] - k[t] @ S))
        o[t] = DIM**-0.5 * (q[t] @ S)
    return o, S


def chunked(q, k, v, g, beta, S, variant):
    r = {name: variant.get(name, lambda x: x) for name in ("inverse", "D", "state", "rest")}
    o = np.zeros_like(v)
    for first in range(0, TOKENS, CHUNK):
        x = slice(first, first + CHUNK)
        c = np.cumsum(g[x])
        e, left = np.exp(c)[:, None], np.exp(c[-1] - c)[:, None]
        gam = np.tril(np.exp(np.minimum(c[:, None] - c, 0)))
        T = np.linalg.inv(np.eye(CHUNK) + np.tril(beta[x][:, None] * (k[x] @ k[x].T) * gam, -1))
        D = r["inverse"](T * beta[x]) @ r["rest"](v[x] - e * (k[x] @ r["state"](S)))
        P = r["rest"](gam * (DIM**-0.5 * (q[x] @ k[x].T)))
        o[x] = DIM**-0.5 * e * (q[x] @ r["state"](S)) + P @ r["D"](D)
        S = np.exp(c[-1]) * S + k[x].T @ r["D"](left * D)
    return bf16(o), S


def main():
    for A in (0.01, 0.1):
        for cosine in (0.5, 0.8, 0.96, 0.99):
            print(f"A = {A}, cosine {cosine}")
            cases = [draw(seed, A, cosine) for seed in range(HEADS)]
            wants = [recurrence(*case) for case in cases]
            for name, variant in VARIANTS.items():
                errors = [[np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(got, want)]
                          for got, want in ((chunked(*c, variant), w) for c, w in zip(cases, wants))]
                low, high = np.min(errors, 0), np.max(errors, 0)
                print(f"  {name:16} o {low[0]:.1e} to {high[0]:.1e}  final state {low[1]:.1e} to "
                      f"{high[1]:.1e}", flush=True)


if __name__ == "__main__":
    main()
