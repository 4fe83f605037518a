"""float64 oracle of the operator: the token recurrence and its backward, nothing chunked.

    S~  = exp(g_t) S_{t-1}
    d_t = beta_t (v_t - S~^T k_t)
    S_t = S~ + k_t d_t^T
    o_t = scale S_t^T q_t

v-head h reads k-head h // (Hv // Hk). Backward walks the same steps from the last token to the
first, with dS the gradient of S_t:

    dS  += scale q_t do_t^T            dq_t = scale S_t do_t
    dd   = dS^T k_t                    dk_t = dS d_t - S~ (beta_t dd)
    dv_t = beta_t dd                   dbeta_t = <dd, v_t - S~^T k_t>
    dS~  = dS - k_t (beta_t dd)^T      dg_t = <dS~, S~>       dS of S_{t-1} = exp(g_t) dS~
"""
import numpy as np


def outer(a, b):
    """[H, K], [H, V] -> [H, K, V]"""
    return a[:, :, None] * b[:, None, :]


def forward(q, k, v, g, beta, state, scale):
    """One sequence, all heads: q, k [T, Hv, K] (already repeated), v [T, Hv, V], g, beta [T, Hv],
    state [Hv, K, V]. Returns o, the states before each token and after the last."""
    states = np.empty((len(v) + 1,) + state.shape)
    states[0] = state
    o = np.empty_like(v)
    for t in range(len(v)):
        decayed = np.exp(g[t])[:, None, None] * states[t]
        delta = beta[t][:, None] * (v[t] - np.einsum("hkv,hk->hv", decayed, k[t]))
        states[t + 1] = decayed + outer(k[t], delta)
        o[t] = scale * np.einsum("hkv,hk->hv", states[t + 1], q[t])
    return o, states


def backward(q, k, v, g, beta, states, scale, do, dstate):
    """Gradients dq, dk (per v-head), dv, dg, dbeta and that of the entry state."""
    dq, dk, dv = np.empty_like(q), np.empty_like(k), np.empty_like(v)
    dg, dbeta = np.empty_like(g), np.empty_like(beta)
    for t in reversed(range(len(v))):
        decay = np.exp(g[t])[:, None, None]
        decayed = decay * states[t]
        rest = v[t] - np.einsum("hkv,hk->hv", decayed, k[t])
        delta = beta[t][:, None] * rest
        dq[t] = scale * np.einsum("hkv,hv->hk", states[t + 1], do[t])
        dstate = dstate + scale * outer(q[t], do[t])
        ddelta = np.einsum("hkv,hk->hv", dstate, k[t])
        dv[t] = beta[t][:, None] * ddelta
        dbeta[t] = (ddelta * rest).sum(-1)
        dk[t] = np.einsum("hkv,hv->hk", dstate, delta) - np.einsum("hkv,hv->hk", decayed, dv[t])
        ddecayed = dstate - outer(k[t], dv[t])
        dg[t] = (ddecayed * decayed).sum((-2, -1))
        dstate = decay * ddecayed
    return dq, dk, dv, dg, dbeta, dstate


def solve(case):
    """Result tensors of a case (a dict of arrays under the names of the case file), float64.
    Gradients where the case has `do`; padding tokens give zeros."""
    x = {name: np.asarray(a, np.float64) for name, a in case.items() if name != "cu_seqlens"}
    T, Hk, K = x["q"].shape
    Hv, V = x["v"].shape[1:]
    group = Hv // Hk
    cu = np.asarray(case.get("cu_seqlens", [0, T]))
    N = len(cu) - 1
    scale = float(case.get("scale", K**-0.5))
    q, k = (np.repeat(x[name], group, axis=1) for name in ("q", "k"))
    zeros = np.zeros((N, Hv, K, V))
    initial, dht = x.get("initial_state", zeros), x.get("dht", zeros)
    r = {"o": np.zeros((T, Hv, V)), "final_state": np.empty_like(zeros)}
    if "do" in x:
        r.update(dq=np.zeros((T, Hk, K)), dk=np.zeros((T, Hk, K)), dv=np.zeros((T, Hv, V)),
                 dg=np.zeros((T, Hv)), dbeta=np.zeros((T, Hv)), dh0=np.empty_like(zeros))
    for n in range(N):
        s = slice(cu[n], cu[n + 1])
        one = (q[s], k[s], x["v"][s], x["g"][s], x["beta"][s])
        r["o"][s], states = forward(*one, initial[n], scale)
        r["final_state"][n] = states[-1]
        if "do" not in x:
            continue
        dq, dk, r["dv"][s], r["dg"][s], r["dbeta"][s], r["dh0"][n] = backward(
            *one, states, scale, x["do"][s], dht[n])
        r["dq"][s], r["dk"][s] = (d.reshape(-1, Hk, group, K).sum(2) for d in (dq, dk))
    return r
