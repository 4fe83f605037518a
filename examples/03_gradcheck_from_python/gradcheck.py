#!/usr/bin/env python3
"""Check a backward pass that was written elsewhere: python3 gradcheck.py [path of the gdn command]"""
import subprocess
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np


def make_case(T=70, Hk=2, Hv=4, K=16, V=24):
    """A case with float32 values, so that everybody sees the same numbers."""
    rng = np.random.default_rng(0)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    case = dict(
        q=unit(rng.standard_normal((T, Hk, K))),
        k=unit(rng.standard_normal((T, Hk, K))),
        v=rng.standard_normal((T, Hv, V)),
        g=-np.geomspace(0.01, 4, Hv) * rng.random((T, Hv)),
        beta=rng.random((T, Hv)),
        initial_state=rng.standard_normal((1, Hv, K, V)),
        do=rng.standard_normal((T, Hv, V)),
        dht=rng.standard_normal((1, Hv, K, V)),
    )
    return {name: x.astype(np.float32) for name, x in case.items()}


def my_gradients(case, forget_group_sum=False):
    """One's own backward, token by token; the flag plants the usual mistake of grouped heads."""
    q, k, v, g, beta, do = (case[n].astype(float) for n in ("q", "k", "v", "g", "beta", "do"))
    (T, Hk, K), Hv = q.shape, v.shape[1]
    scale = K**-0.5
    r = {n: np.zeros_like(x) for n, x in dict(dq=q, dk=k, dv=v, dg=g, dbeta=beta, o=v).items()}
    r["final_state"] = np.zeros(case["dht"].shape)
    r["dh0"] = np.zeros(case["dht"].shape)
    for h in range(Hv):
        hk = h // (Hv // Hk)
        S = [case["initial_state"][0, h].astype(float)]
        for t in range(T):
            decayed = np.exp(g[t, h]) * S[t]
            delta = beta[t, h] * (v[t, h] - decayed.T @ k[t, hk])
            S.append(decayed + np.outer(k[t, hk], delta))
            r["o"][t, h] = scale * S[t + 1].T @ q[t, hk]
        r["final_state"][0, h] = S[T]
        dS = case["dht"][0, h].astype(float)
        for t in reversed(range(T)):
            decayed = np.exp(g[t, h]) * S[t]
            error = v[t, h] - decayed.T @ k[t, hk]
            dS = dS + scale * np.outer(q[t, hk], do[t, h])
            ddelta = dS.T @ k[t, hk]
            dq = scale * S[t + 1] @ do[t, h]
            dk = dS @ (beta[t, h] * error) - beta[t, h] * decayed @ ddelta
            if forget_group_sum:
                r["dq"][t, hk], r["dk"][t, hk] = dq, dk
            else:
                r["dq"][t, hk] += dq
                r["dk"][t, hk] += dk
            r["dv"][t, h] = beta[t, h] * ddelta
            r["dbeta"][t, h] = error @ ddelta
            dS = dS - np.outer(k[t, hk], beta[t, h] * ddelta)  # gradient of the decayed state
            r["dg"][t, h] = (dS * decayed).sum()
            dS = np.exp(g[t, h]) * dS
        r["dh0"][0, h] = dS
    return r


def write(path, kind, tensors, **attributes):
    with h5py.File(path, "w") as f:
        f.attrs.update({"format": kind, "version": np.int32(1), **attributes})
        for name, x in tensors.items():
            f[name] = x


def main():
    gdn = sys.argv[1] if len(sys.argv) > 1 else "gdn"
    with tempfile.TemporaryDirectory() as folder:
        case_file, result_file = Path(folder, "mine.case.h5"), Path(folder, "mine.result.h5")
        case = make_case()
        write(case_file, "gdn-case", case)
        for mistake in (False, True):
            result = my_gradients(case, forget_group_sum=mistake)
            write(result_file, "gdn-result", result, backend="numpy", dtype="fp64",
                  library_version=np.__version__, ranks=np.int32(1))
            print(f"\n{'with' if mistake else 'without'} the mistake:", flush=True)
            code = subprocess.run([gdn, "gradcheck", case_file, "--result", result_file]).returncode
            if code != int(mistake):
                sys.exit(f"gdn gradcheck: expected exit code {int(mistake)}, got {code}")


if __name__ == "__main__":
    main()
