#!/usr/bin/env python3
"""Which rounding to bf16 costs the portable kernels how much: their arithmetic in numpy.

    bf16_roundings.py [VARIANT ...]      needs numpy and h5py; see VARIANTS; all without

Everything is fp32 but for what a variant rounds. Prints, per head against the float64 oracle, the
errors of dg and dbeta of the named cases and over random heads (kernels/portable/ends.cuh quotes
them).
"""
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
import make_cases  # noqa: E402
import oracle  # noqa: E402

CHUNK = 64
F32 = np.float32
bf16 = make_cases.to_bf16


def two(x):
    """Two operands: what rounding leaves out is the second."""
    high = bf16(x)
    return high + bf16(x - high)


def exact(x):
    return np.asarray(x, F32)


# chain: operands of the chains; states: S and dS' there; dots: S and dS' in r, w, z and dbeta; tiles:
# S, dS', D, E as stage 3 reads them; scores: Q K^T and N. ends: the caller's states, where not None.
BASE = dict(chain=bf16, states=bf16, dots=bf16, tiles=bf16, scores=bf16, ends=None)
VARIANTS = {
    "all rounded": {},
    "caller's states in two": dict(ends=two),
    "and exact scores": dict(ends=two, scores=exact),
    "every state in two": dict(states=two, dots=two),
    "exact chains": dict(chain=exact, states=exact),
    "exact but dS' in K dS'": dict(chain=exact, states=bf16, dots=exact, tiles=exact, scores=exact),
}


def suffix(x):
    return np.cumsum(x[::-1], dtype=F32)[::-1]


def prepare(q, k, g, beta, scale, r):
    n, c = len(g), np.cumsum(np.maximum(g.astype(float), -1000))
    low = np.tril(np.ones((n, n), F32))
    strict = np.tril(low, -1)
    gam = np.where(low > 0, np.exp(np.where(low > 0, c[:, None] - c, 0)), 0).astype(F32)
    N, QK = k @ k.T, q @ k.T
    T = np.linalg.inv(np.eye(n) + strict * (beta[:, None].astype(float) * N)).astype(F32)
    return dict(e=np.exp(c).astype(F32)[:, None], left=np.exp(c[-1] - c).astype(F32)[:, None],
                gam=gam, strict=strict, low=low, N=r["scores"](N), QK=r["scores"](QK),
                inverse=r["chain"](gam * T), P=r["chain"](gam * scale * QK))


def gates(x, p, r, q, k, v, beta, do, S, dS, D, E, scale, first, last):
    """dg and dbeta of one chunk."""
    S_dots, dS_dots = ((r["ends"] if r["ends"] and end else r["dots"]) for end in (first, last))
    S_, dS_, D, E = S_dots(S), dS_dots(dS), r["tiles"](D), r["tiles"](E)
    e, left, b = p["e"][:, 0], p["left"][:, 0], beta[:, None]
    along_q, along_k = (q * (do @ S_.T)).sum(1), (k * (E @ S_.T)).sum(1)
    w, z = left * (k * (D @ dS_.T)).sum(1), e[-1] * (S_ * dS_).sum(dtype=F32)
    G, Z = scale * p["gam"] * (do @ D.T), p["gam"] * (E @ D.T) * p["strict"]
    B = (G * p["QK"] - b * Z * p["N"]) * p["strict"]
    r_i = scale * e * along_q - e * beta * along_k + B.sum(1) - B.sum(0)
    dg = z + suffix(r_i) + np.concatenate([[0], np.cumsum(w, dtype=F32)[:-1]])
    return dg, (E * v).sum(1) - e * along_k - (Z * p["N"]).sum(1)


def head(q, k, v, g, beta, S, dS, scale, do, r):
    """dg and dbeta of one sequence and v-head."""
    chunks = [slice(i, i + CHUNK) for i in range(0, len(g), CHUNK)]
    parts = [prepare(q[x], k[x], g[x], beta[x], scale, r) for x in chunks]
    states, deltas, last = [], [], len(chunks) - 1
    for i, (x, p) in enumerate(zip(chunks, parts)):
        states.append(S)
        operand = r["ends"] if r["ends"] and i == 0 else r["states"]
        u = beta[x][:, None] * (v[x] - p["e"] * (k[x] @ operand(S)))
        deltas.append(p["inverse"] @ r["chain"](u))
        S = p["e"][-1] * S + k[x].T @ r["chain"](p["left"] * deltas[-1])
    dg, dbeta = np.zeros(len(g), F32), np.zeros(len(g), F32)
    for i in range(last, -1, -1):
        x, p = chunks[i], parts[i]
        operand = r["ends"] if r["ends"] and i == last else r["states"]
        y = p["left"] * (k[x] @ operand(dS)) + p["P"].T @ do[x]
        E = p["inverse"].T @ r["chain"](y)
        dg[x], dbeta[x] = gates(x, p, r, q[x], k[x], v[x], beta[x], do[x], states[i], dS, deltas[i],
                                E, scale, i == 0, i == last)
        dS = (p["e"][-1] * dS + q[x].T @ r["chain"](scale * p["e"] * do[x]) -
              k[x].T @ r["chain"](p["e"] * beta[x][:, None] * E))
    return dg, dbeta


def errors(case, want, r):
    """Relative L2 errors of dg and of dbeta, one a head."""
    K, (T, Hv, V) = case["q"].shape[2], case["v"].shape
    cu, group = case["cu_seqlens"], Hv // case["q"].shape[1]
    got = {name: np.zeros((T, Hv)) for name in ("dg", "dbeta")}
    zeros = np.zeros((len(cu) - 1, Hv, K, V), F32)
    S, dS = case.get("initial_state", zeros), case.get("dht", zeros)
    for n in range(len(cu) - 1):
        x = slice(cu[n], cu[n + 1])
        for h in range(Hv):
            got["dg"][x, h], got["dbeta"][x, h] = head(
                case["q"][x, h // group], case["k"][x, h // group], case["v"][x, h],
                case["g"][x, h], case["beta"][x, h], S[n, h], dS[n, h], F32(K**-0.5),
                case["do"][x, h], r)
    return [np.linalg.norm(got[name] - want[name], axis=0) /
            np.maximum(np.linalg.norm(want[name], axis=0), 1e-300) for name in got]


def random_case(seed, T):
    make_cases.CASES["random"] = ([T], 1, 4, 128, 128, dict(beta_edges=T > 1 and seed % 2))
    crc, make_cases.zlib.crc32 = make_cases.zlib.crc32, lambda name: seed
    try:
        return make_cases.build("random")
    finally:
        make_cases.zlib.crc32 = crc
        del make_cases.CASES["random"]


def main():
    named = {name: make_cases.build(name) for name in ("beta_edges", "one_token")}
    cases = {name: [case] for name, case in named.items()}
    cases["4 x 60 heads, 130 tokens"] = [random_case(seed, 130) for seed in range(60)]
    cases["4 x 150 heads, 1 token"] = [random_case(1000 + seed, 1) for seed in range(150)]
    want = {name: [oracle.solve(case) for case in some] for name, some in cases.items()}
    for variant in sys.argv[1:] or VARIANTS:
        print(variant)
        for name, some in cases.items():
            both = [errors(c, w, {**BASE, **VARIANTS[variant]}) for c, w in zip(some, want[name])]
            for i, tensor in enumerate(("dg", "dbeta")):
                x = np.concatenate([e[i] for e in both])
                print(f"  {name:26} {tensor:6} median {np.median(x):.1e}  95% "
                      f"{np.quantile(x, .95):.1e}  largest {x.max():.1e}  over 5e-3: "
                      f"{100 * np.mean(x > 5e-3):.0f}%", flush=True)


if __name__ == "__main__":
    main()
