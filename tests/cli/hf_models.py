"""Small models with the tensor names and layouts of Hugging Face's Qwen3-Next and Qwen3.5, made with numpy alone."""
import json
import shutil
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "io"))
import kinds  # noqa: E402
import safetensors_file as st  # noqa: E402

SHAPE = dict(Hk=2, Hv=4, K=8, V=6, D=10, W=4)
CONFIG = {"hidden_size": 10, "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 8,
          "linear_value_head_dim": 6, "linear_conv_kernel_dim": 4, "rms_norm_eps": 1e-06, "hidden_act": "silu"}
PLAIN = ["in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "conv1d", "A_log", "dt_bias", "norm", "out_proj"]
VECTORS = {"A_log", "dt_bias", "norm"}
PREFIX = "model.layers.{}.linear_attn."
A_LOG = PREFIX.format(1) + "A_log"
CONV = PREFIX.format(1) + "conv1d.weight"
EMBED = "model.embed_tokens.weight"


def bare(name):
    return name.removesuffix(".weight")


def layer(naming, seed, **other):
    return kinds.layer_weights(np.random.default_rng(seed), naming, *{**SHAPE, **other}.values())


def cast(weights, how):
    """how: a dtype of all, or "mixed": bf16 with vectors in fp32."""
    def one(name, values):
        kind = ("fp32" if bare(name) in VECTORS else "bf16") if how == "mixed" else how
        return {"fp32": values, "bf16": st.to_bf16(values), "fp16": values.astype(np.float16)}[kind]
    return {name: one(name, values) for name, values in weights.items()}


def model(naming, how="mixed", numbers=(0, 1, 3), prefix=PREFIX, **other):
    """Tensors of a model with these GDN layers and a few others."""
    tensors = {"model.embed_tokens.weight": st.to_bf16(np.ones((7, 10))),
               "model.layers.2.self_attn.q_proj.weight": np.ones((4, 10), np.float32),
               "model.position_ids": np.arange(5)}
    for n in numbers:
        weights = cast(layer(naming, n, **other), how)
        tensors.update({prefix.format(n) + name: values for name, values in weights.items()})
    return tensors


def write_model(folder, tensors, config=CONFIG, shards=1):
    """A folder as Hugging Face has it."""
    folder = Path(folder)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if config:
        (folder / "config.json").write_text(json.dumps(config, indent=2))
    if shards == 1:
        st.write(folder / "model.safetensors", tensors)
        return folder
    names, where = sorted(tensors), {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[i::shards]}
        st.write(folder / file, part)
        where.update({name: file for name in part})
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))
    return folder


def only_layers(tensors, numbers=(0, 1, 3), prefix=PREFIX):
    return {n: t for n, t in tensors.items() if any(n.startswith(prefix.format(i)) for i in numbers)}
