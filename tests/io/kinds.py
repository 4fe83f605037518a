"""A small valid file of every kind, as a dict of attributes and one of datasets, for h5py."""
import sys
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
import oracle  # noqa: E402

TEXT = b"In the beginning was the word, and the word was a token. " * 8


def case():
    rng = np.random.default_rng(1)
    T, N, Hk, Hv, K, V = 9, 2, 1, 2, 8, 4

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32)

    return {"scale": 0.25}, {
        "q": draw(T, Hk, K), "k": draw(T, Hk, K) / 4, "v": draw(T, Hv, V), "g": -abs(draw(T, Hv)),
        "beta": rng.random((T, Hv)), "cu_seqlens": np.array([0, 5, 8]), "do": draw(T, Hv, V),
        "initial_state": draw(N, Hv, K, V), "dht": draw(N, Hv, K, V)}


def about():
    return {"backend": "h5py", "dtype": "fp64", "library_version": "none", "ranks": np.int32(1)}


def result():
    attributes, tensors = case()
    return about(), oracle.solve(dict(tensors, **attributes))


def layer_weights(rng, naming, Hk, Hv, K, V, D, W):
    r = Hv // Hk

    def draw(*shape):
        return rng.standard_normal(shape).astype(np.float32) / 4

    w = {"in_proj_qkvz.weight": draw(2 * (Hk * K + Hv * V), D),
         "in_proj_ba.weight": draw(2 * Hv, D)}
    if naming == "qwen3.5":
        grouped = w.pop("in_proj_qkvz.weight").reshape(Hk, -1, D)
        parts = np.split(grouped, np.cumsum([K, K, r * V]), axis=1)
        q, k, v, z = (part.reshape(-1, D) for part in parts)
        b, a = np.split(w.pop("in_proj_ba.weight").reshape(Hk, -1, D), 2, axis=1)
        w = {"in_proj_qkv.weight": np.concatenate([q, k, v]), "in_proj_z.weight": z,
             "in_proj_b.weight": b.reshape(-1, D), "in_proj_a.weight": a.reshape(-1, D)}
    w.update({"conv1d.weight": draw(2 * Hk * K + Hv * V, 1, W), "A_log": draw(Hv),
              "dt_bias": draw(Hv), "norm.weight": draw(V), "out_proj.weight": draw(D, Hv * V)})
    return w


def layer_case(naming="qwen3.5"):
    rng = np.random.default_rng(2)
    tensors = layer_weights(rng, naming, 2, 4, 4, 3, 6, 4)
    tensors.update(x=rng.standard_normal((7, 6)), dout=rng.standard_normal((7, 6)),
                   cu_seqlens=np.array([0, 3, 7]))
    return {"Hk": 2, "K": 4, "norm_eps": 1e-5}, tensors


def layer_result(naming="qwen3.5"):
    rng = np.random.default_rng(3)
    weights = layer_weights(rng, naming, 2, 4, 4, 3, 6, 4)
    tensors = {"d" + name: value for name, value in weights.items()}
    tensors.update(out=rng.standard_normal((7, 6)), dx=rng.standard_normal((7, 6)))
    return dict(about(), Hk=2, K=4), tensors


def dataset():
    tokens = np.frombuffer(TEXT, np.uint8)
    return {"tokenizer": "byte", "vocab": 256}, {"train": tokens[:400], "heldout": tokens[400:]}


def checkpoint():
    weights = (np.arange(600, dtype=np.float32) / 8 - 3).reshape(20, 30)
    return {"step": 7}, {
        "model/weights": weights, "model/empty": np.zeros((0, 30), np.float32),
        "optimizer/loss": np.array([1.5, 2.5]), "position": np.int64(42),
        "random": np.array([2**64 - 1, 7], np.uint64), "config": np.frombuffer(b"a = 1", np.uint8)}


def log():
    return {"columns": np.array([b"step", b"loss"])}, {
        "values": np.array([[1, 5.5], [2, 5.25], [3, np.nan]]),
        "config": np.frombuffer(b"steps = 3", np.uint8)}


KINDS = {"case": case, "result": result, "layer_case": layer_case, "layer_result": layer_result,
         "dataset": dataset, "checkpoint": checkpoint, "log": log}


def write(path, kind, attributes, tensors, version=1, **how):
    """how: keyword arguments of h5py.File and, under "create", of create_dataset."""
    create = how.pop("create", {})
    with h5py.File(path, "w", **how) as f:
        f.attrs["format"] = "gdn-" + kind.replace("_", "-")
        f.attrs["version"] = version
        for name, value in attributes.items():
            f.attrs[name] = value
        for name, value in tensors.items():
            f.create_dataset(name, data=value, **(create if np.ndim(value) else {}))
