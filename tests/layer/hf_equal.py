#!/usr/bin/env python3
"""The layer against Hugging Face transformers: out, dx and the gradient of every weight equal those of the
GatedDeltaNet modules of Qwen3.5 and Qwen3-Next (PyTorch, CPU, float32) with the same weights.

    python3 hf_equal.py LIBGDN.so        exit 77 where torch or transformers is missing
"""
import ctypes
import os
import sys
from ctypes import POINTER, Structure, c_double, c_int32, c_int64, c_size_t, c_uint32, c_void_p

TOLERANCE = 1e-4  # relative L2: float32 on both sides, in another order
PER_HEAD = ["in_proj_b", "in_proj_a", "A_log", "dt_bias"]  # one row a head: none may hide behind another
CONV_WIDTH, NORM_EPS = 4, 1e-6
WEIGHTS = ["in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "conv1d", "A_log", "dt_bias", "norm", "out_proj"]


def skip(reason):
    print(f"skipped: {reason}")
    sys.exit(77)


try:
    import torch
except ImportError:
    skip("no torch")
try:
    from transformers.models.qwen3_5.configuration_qwen3_5 import Qwen3_5TextConfig
    from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet
    from transformers.models.qwen3_next.configuration_qwen3_next import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet
except ImportError:
    skip("no transformers with Qwen3.5 and Qwen3-Next")

BACKENDS, DTYPES = {"cpu": 2, "cuda": 3}, {torch.float32: 0, torch.bfloat16: 1}


# ---- libgdn, as declared in gdn.h and gdn_layer.h

class Config(Structure):
    _fields_ = [("size", c_size_t), ("backend", c_int32), ("device", c_int32), ("threads", c_int32)]


class Layer(Structure):
    _fields_ = [("size", c_size_t), ("dtype", c_int32), ("flags", c_uint32), ("T", c_int64), ("N", c_int64),
                ("D", c_int32), ("Hk", c_int32), ("Hv", c_int32), ("K", c_int32), ("V", c_int32),
                ("conv_width", c_int32), ("scale", c_double), ("norm_eps", c_double), ("decay_threshold", c_double)]


class Weights(Structure):
    _fields_ = [("size", c_size_t)] + [(name, c_void_p) for name in WEIGHTS]


class Tensors(Structure):
    _fields_ = [("size", c_size_t), ("x", c_void_p), ("weights", POINTER(Weights)), ("cu_seqlens", c_void_p),
                ("initial_state", c_void_p), ("out", c_void_p), ("final_state", c_void_p), ("saved", c_void_p),
                ("dout", c_void_p), ("dht", c_void_p), ("dx", c_void_p), ("dweights", POINTER(Weights)),
                ("dh0", c_void_p), ("workspace", c_void_p), ("workspace_size", c_size_t)]


class Sizes(Structure):
    _fields_ = [(name, c_size_t) for name in ("size", "forward_workspace", "backward_workspace", "segment_workspace",
                                              "saved", "checked_report")]


class Library:
    def __init__(self, path, backend="cpu"):
        self.gdn = ctypes.CDLL(path)
        self.gdn.gdn_last_error.restype = ctypes.c_char_p
        self.context = c_void_p()
        config = Config(ctypes.sizeof(Config), BACKENDS[backend], 0, 2)
        self.call("gdn_context_create", ctypes.byref(self.context), ctypes.byref(config))

    def call(self, name, *arguments):
        if getattr(self.gdn, name)(*arguments):
            sys.exit(f"{name}: {self.gdn.gdn_last_error().decode()}")


class LayerCall:
    """A layer's forward and backward of x and dout [T, D]; leaves out, dx, and gradients by the weights' names."""

    def __init__(self, library, shape, weights, x, dout):
        self.library = library
        self.layer = Layer(size=ctypes.sizeof(Layer), dtype=DTYPES[x.dtype], conv_width=CONV_WIDTH, norm_eps=NORM_EPS,
                           **shape)
        sizes = Sizes(size=ctypes.sizeof(Sizes))
        library.call("gdn_layer_sizes", library.context, ctypes.byref(self.layer), ctypes.byref(sizes))
        self.gradients = {name: torch.full_like(w, float("nan"), dtype=torch.float32) for name, w in weights.items()}
        self.out, self.dx = torch.full_like(x, float("nan")), torch.full_like(x, float("nan"))
        saved = torch.empty(sizes.saved + 256, dtype=torch.uint8, device=x.device)
        bytes_ = max(sizes.forward_workspace, sizes.backward_workspace)
        workspace = torch.empty(bytes_ + 256, dtype=torch.uint8, device=x.device)

        def struct(tensors):
            return Weights(ctypes.sizeof(Weights), *(tensors[name].data_ptr() for name in WEIGHTS))

        def aligned(tensor):
            return (tensor.data_ptr() + 255) // 256 * 256

        self.memory = weights, x, dout, saved, workspace
        self.weights, self.dweights = struct(weights), struct(self.gradients)
        self.tensors = Tensors(size=ctypes.sizeof(Tensors), x=x.data_ptr(), weights=ctypes.pointer(self.weights),
                               out=self.out.data_ptr(), saved=aligned(saved), dout=dout.data_ptr(),
                               dx=self.dx.data_ptr(), dweights=ctypes.pointer(self.dweights),
                               workspace=aligned(workspace), workspace_size=bytes_)

    def forward(self, stream=None):
        self.library.call("gdn_layer_forward", self.library.context, ctypes.byref(self.layer),
                          ctypes.byref(self.tensors), c_void_p(stream))

    def backward(self, stream=None):
        self.library.call("gdn_layer_backward", self.library.context, ctypes.byref(self.layer),
                          ctypes.byref(self.tensors), c_void_p(stream))


# ---- The modules

def config_of(cls, s):
    return cls(hidden_size=s["D"], linear_num_key_heads=s["Hk"], linear_num_value_heads=s["Hv"],
               linear_key_head_dim=s["K"], linear_value_head_dim=s["V"], linear_conv_kernel_dim=CONV_WIDTH,
               rms_norm_eps=NORM_EPS, num_hidden_layers=1, layer_types=["linear_attention"])


def randomise(module):
    """Weights of the size that training starts from; A in (0, 16), time steps from 1e-3 to 1e-1."""
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name == "A_log":
                p.copy_(torch.empty_like(p).uniform_(0.01, 16).log())
            elif name == "dt_bias":
                step = torch.exp(torch.empty_like(p).uniform_(-6.9, -2.3))
                p.copy_(step + torch.log(-torch.expm1(-step)))
            elif name == "norm.weight":
                p.copy_(1 + 0.2 * torch.randn_like(p))
            elif name == "conv1d.weight":
                p.copy_(torch.randn_like(p) / CONV_WIDTH ** 0.5)
            else:
                p.copy_(torch.randn_like(p) / p.shape[-1] ** 0.5)


def split_qwen3_5(s, tensors):
    """Our names from Qwen3.5's: only names and the shape of the convolution differ."""
    return {name: tensors[name if name in ("A_log", "dt_bias") else f"{name}.weight"] for name in WEIGHTS}


def split_qwen3_next(s, tensors):
    """Our names from Qwen3-Next's, whose rows of qkvz and ba go k-head by k-head."""
    Hk, K, group = s["Hk"], s["K"], s["Hv"] // s["Hk"]
    qkvz = tensors["in_proj_qkvz.weight"].reshape(Hk, -1, s["D"])
    ba = tensors["in_proj_ba.weight"].reshape(Hk, 2 * group, s["D"])
    values = group * s["V"]
    q, k, v, z = (t.reshape(-1, s["D"]) for t in qkvz.split([K, K, values, values], dim=1))
    b, a = (t.reshape(-1, s["D"]) for t in ba.split([group, group], dim=1))
    r = {"in_proj_qkv": torch.cat([q, k, v]), "in_proj_z": z, "in_proj_b": b, "in_proj_a": a}
    r.update({name: tensors[name] for name in ("A_log", "dt_bias")})
    r.update({name: tensors[f"{name}.weight"] for name in ("conv1d", "norm", "out_proj")})
    return r


MODELS = {"Qwen3.5": (Qwen3_5TextConfig, Qwen3_5GatedDeltaNet, split_qwen3_5),
          "Qwen3-Next": (Qwen3NextConfig, Qwen3NextGatedDeltaNet, split_qwen3_next)}
SHAPES = [dict(T=T, N=N, D=D, Hk=Hk, Hv=Hv, K=K, V=V)
          for T, N, D, Hk, Hv, K, V in [(1, 1, 64, 2, 2, 32, 32), (70, 1, 96, 2, 4, 64, 64), (300, 1, 64, 1, 4, 32, 48),
                                        (300, 1, 128, 2, 2, 128, 128), (140, 2, 64, 2, 4, 32, 32)]]


def error(a, b):
    """Relative L2, of the worst row; absolute where b is zero (g of a single token has no gradient)."""
    a, b = a.double(), b.double()
    norm = torch.linalg.vector_norm(b, dim=-1)
    return (torch.linalg.vector_norm(a - b, dim=-1) / torch.where(norm > 0, norm, 1)).max().item()


def compare(library, model, s, seed):
    """Relative errors by name."""
    config_class, module_class, split = MODELS[model]
    torch.manual_seed(seed)
    module = module_class(config_of(config_class, s), 0).float().train()
    randomise(module)
    x = torch.randn(s["N"], s["T"] // s["N"], s["D"], requires_grad=True)
    dout = torch.randn_like(x)
    expected = module(x)
    expected.backward(dout)
    ours = {n: w.detach().contiguous() for n, w in split(s, dict(module.named_parameters())).items()}
    wanted = split(s, {name: p.grad for name, p in module.named_parameters()})
    call = LayerCall(library, s, ours, x.detach().reshape(s["T"], -1), dout.reshape(s["T"], -1))
    call.forward()
    call.backward()
    errors = {"out": error(call.out.reshape(-1), expected.detach().reshape(-1)),
              "dx": error(call.dx.reshape(-1), x.grad.reshape(-1))}
    for name in WEIGHTS:
        rows = s["Hv"] if name in PER_HEAD else 1
        errors["d" + name] = error(call.gradients[name].reshape(rows, -1), wanted[name].reshape(rows, -1))
    return errors


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    library = Library(os.path.abspath(sys.argv[1]))
    torch.set_num_threads(2)
    failed = 0
    for model in MODELS:
        for i, s in enumerate(SHAPES):
            errors = compare(library, model, s, i)
            good = all(e <= TOLERANCE for e in errors.values())  # false for NaN
            failed += not good
            shape = " ".join(f"{k}={v}" for k, v in s.items())
            print(f"{'ok  ' if good else 'FAIL'} {model:10} {shape}: " +
                  " ".join(f"{n} {e:.1e}" for n, e in errors.items()))
    print(f"{len(MODELS) * len(SHAPES) - failed} passed, {failed} failed")
    return failed > 0


if __name__ == "__main__":
    sys.exit(main())
