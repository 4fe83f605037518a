#!/usr/bin/env python3
"""gdn import and export with models that Hugging Face transformers saves itself, Qwen3-Next and Qwen3.5, in one file and
in shards, fp32 and bf16: the imported weights compute what the module computes, and what is exported is bitwise what
transformers saved and loads into the module.

    python3 hf_weights.py GDN FOLDER        exit 77 where torch, transformers or h5py is missing
"""
import os
import shutil
import subprocess
import sys


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


try:
    import h5py
    import numpy as np
    import torch
    from safetensors.torch import load_file, save_file
except ImportError as error:
    skip(error)
try:
    from transformers import Qwen3NextConfig, Qwen3NextForCausalLM
    from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5ForCausalLM
except ImportError:
    skip("no transformers with Qwen3.5 and Qwen3-Next")

TOLERANCE = 1e-4  # relative L2: float32 on both sides, in another order
LAYERS = (0, 2)   # of three, the second of which is softmax attention
SHAPE = dict(hidden_size=64, linear_num_key_heads=2, linear_num_value_heads=4, linear_key_head_dim=16,
             linear_value_head_dim=32, linear_conv_kernel_dim=4, num_hidden_layers=3, vocab_size=64,
             layer_types=["linear_attention", "full_attention", "linear_attention"], num_attention_heads=2,
             num_key_value_heads=1, head_dim=32, intermediate_size=96)
EXPERTS = dict(num_experts=2, num_experts_per_tok=1, moe_intermediate_size=32, shared_expert_intermediate_size=32)
MODELS = {"qwen3-next": (Qwen3NextForCausalLM, Qwen3NextConfig, {**SHAPE, **EXPERTS}),
          "qwen3.5": (Qwen3_5ForCausalLM, Qwen3_5TextConfig, SHAPE)}
passed = failed = 0


def check(condition, message):
    global passed, failed
    if condition:
        passed += 1
    else:
        failed += 1
        print(f"FAILED: {message}", file=sys.stderr)


def run(*command):
    done = subprocess.run([GDN, *command], capture_output=True, text=True)
    check(done.returncode == 0, f"{command}: exit {done.returncode}: {done.stderr}")


def randomise(model):
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("A_log"):
                p.copy_(torch.empty_like(p).uniform_(0.01, 16).log())
            elif name.endswith("dt_bias"):
                p.copy_(torch.empty_like(p).uniform_(-7, -2))
            elif "linear_attn.norm" in name:
                p.copy_(1 + 0.2 * torch.randn_like(p))
            elif "linear_attn" in name:
                p.copy_(torch.randn_like(p) / p.shape[-1] ** 0.5)


def output(block, module, x):
    """Of gdn run on the weights of an imported block."""
    with h5py.File("in.h5") as f, h5py.File("case.h5", "w") as case:
        case.attrs.update({"format": "gdn-layer-case", "version": 1, "Hk": module.num_k_heads, "K": module.head_k_dim})
        case["x"] = x[0].numpy()
        for name in ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "conv1d", "A_log", "dt_bias", "norm",
                     "out_proj"):
            vector = name in ("A_log", "dt_bias")
            case[name if vector else name + ".weight"] = f[f"model/blocks.{block}.gdn.{name}"][()]
    run("run", "case.h5", "-o", "result.h5", "--backend", "cpu")
    with h5py.File("result.h5") as f:
        return f["out"][()]


def test(naming, dtype, shards):
    label = f"{naming} {dtype} in {'shards' if shards else 'one file'}"
    model_class, config_class, shape = MODELS[naming]
    torch.manual_seed(1)
    model = model_class(config_class(**shape))
    randomise(model)
    model = model.to(dtype)
    shutil.rmtree("model", ignore_errors=True)
    model.save_pretrained("model", max_shard_size="60KB" if shards else "1GB")
    files = sorted(f for f in os.listdir("model") if f.endswith(".safetensors"))
    check((len(files) > 2) == shards, f"{label}: {files}")
    run("import", "model", "-o", "in.h5", *(word for n in LAYERS for word in ("--layer", str(n))))
    run("export", "in.h5", "-o", "back.safetensors")
    saved = {name: t for file in files for name, t in load_file("model/" + file).items() if ".linear_attn." in name}
    back = load_file("back.safetensors")
    check(set(saved) == set(back) and saved, f"{label}: names {set(saved) ^ set(back)}")
    for name, t in saved.items():
        same = name in back and t.dtype == back[name].dtype and t.shape == back[name].shape
        check(same and torch.equal(t.view(torch.uint8), back[name].view(torch.uint8)), f"{label}: {name}")
    save_file(saved, "library.safetensors", metadata={"format": "pt"})
    with open("library.safetensors", "rb") as library, open("back.safetensors", "rb") as ours:
        check(library.read() == ours.read(), f"{label}: another file than the format's own library writes")
    fresh = model_class(config_class(**shape)).to(dtype)
    loaded = fresh.load_state_dict(back, strict=False)
    check(not loaded.unexpected_keys, f"{label}: {loaded.unexpected_keys}")
    worst = 0
    for block, number in enumerate(LAYERS):
        module = fresh.model.layers[number].linear_attn.float().eval()
        x = torch.randn(1, 150, SHAPE["hidden_size"])
        with torch.no_grad():
            want = module(x)[0].numpy()
        got = output(block, module, x)
        error = np.linalg.norm(got - want) / np.linalg.norm(want)
        check(error <= TOLERANCE, f"{label}: layer {number}: output differs by {error:.1e}")
        worst = max(worst, error)
    print(f"{label}: {len(files)} files, {len(back)} tensors, output differs by at most {worst:.1e}")


def main():
    global GDN
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    GDN = os.path.abspath(sys.argv[1])
    shutil.rmtree(sys.argv[2], ignore_errors=True)
    os.makedirs(sys.argv[2])
    os.chdir(sys.argv[2])
    torch.set_num_threads(2)
    for naming in MODELS:
        for dtype in (torch.float32, torch.bfloat16):
            for shards in (False, True):
                test(naming, dtype, shards)
    print(f"{passed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
