#!/usr/bin/env python3
"""The layer on a GPU: libgdn against Hugging Face's Qwen3.5 module and FLA's layer, in one process.

The module is transformers' own with PyTorch's kernels, which is what it computes with where FLA is
not installed; FLA's layer is its GatedDeltaNet. All have the same weights (bf16; A_log and dt_bias
fp32), input and output gradient. Forward and backward of one sequence, all gradients: a call at a
time from the host ("calls") and as one CUDA graph; times are medians, the sides take turns. What
they compute has to agree with libgdn's, or no time of it is written. Where FLA refuses to compute,
the table says why. Writes FOLDER/<gpu>-<date>-<commit>-layers.csv as rows come.

Needs torch and transformers; for FLA's layer also triton, einops and FLA's source, as fla.py, which
must not be on Python's path: transformers would take its kernels.

    python3 tests/bench/hf_layer.py build/lib/libgdn.so [FLA_SOURCE] [--tokens T]
"""

import argparse
import csv
import pathlib
import re
import statistics
import subprocess
import sys
import time

try:
    import torch
    import transformers
except ImportError as error:
    sys.exit(f"hf_layer.py: {error}; needs torch and transformers")

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "layer"))
import hf_equal  # with transformers' module, which takes FLA's kernels if it finds them now
from fla_source import compile_all, import_fla, try_share
from hf_equal import LayerCall, Library

SHAPES = [(1024, 16), (2048, 16), (2048, 32), (4096, 32)]  # D, Hv
HK, DIM = 16, 128
LAYERS, STUBS = "fla.layers.gated_deltanet", ("fla", "fla.ops", "fla.layers")
UNTIMED, REPEATS = 2, 10  # of each side, in turns of one
TOLERANCE = 0.1  # of a tensor, in bf16; a wrong factor or a missing term is above it
# Tensors of one number a head are sums in which most cancels; A_log's gradient keeps to this.
TOLERANCE_HEADS = 0.2


# ---- The sides: each has forward_backward(), after which found() gives its results by name ----


class Module:
    """A torch module whose parameters are `names`, {libgdn's name: theirs or several to be stacked}."""

    def __init__(self, module, names, x, dout):
        self.module, self.names, self.x, self.dout = module, names, x, dout
        self.parameters = dict(module.named_parameters())

    def forward_backward(self, stream=None):
        out = self.module(self.x)
        self.out = out[0] if isinstance(out, tuple) else out
        wanted = [self.x, *self.parameters.values()]
        self.dx, *gradients = torch.autograd.grad(self.out, wanted, self.dout)
        self.gradients = dict(zip(self.parameters, gradients))

    def forget(self):
        """Lets go of the autograd graph, which keeps to the stream of its making."""
        self.out = self.dx = self.gradients = None

    def found(self):
        named = {n: torch.cat([self.gradients[p] for p in ps]) for n, ps in self.names.items()}
        return dict(out=self.out.detach(), dx=self.dx) | named


class Libgdn:
    def __init__(self, library, shape, weights, x, dout):
        T, D = shape["T"], shape["D"]
        self.call = LayerCall(library, shape, weights, x.detach().view(T, D), dout.view(T, D))

    def forward_backward(self, stream=None):
        stream = stream or torch.cuda.current_stream().cuda_stream
        self.call.forward(stream)
        self.call.backward(stream)

    def found(self):
        return dict(out=self.call.out, dx=self.call.dx) | self.call.gradients


def hugging_face(shape, device, dtype):
    """The module with random weights, and its names."""
    config = hf_equal.config_of(hf_equal.Qwen3_5TextConfig, shape)
    module = hf_equal.Qwen3_5GatedDeltaNet(config, 0).train()
    hf_equal.randomise(module)
    module.to(device, dtype)
    for name in ("A_log", "dt_bias"):
        parameter = getattr(module, name)
        parameter.data = parameter.data.float()
    return module, {n: [n if n in ("A_log", "dt_bias") else f"{n}.weight"] for n in hf_equal.WEIGHTS}


def fla_layer(layers, shape, weights):
    """FLA's layer with these weights, and its names."""
    module = layers.GatedDeltaNet(
        hidden_size=shape["D"], expand_v=shape["V"] / shape["K"], head_dim=shape["K"],
        num_heads=shape["Hk"], num_v_heads=shape["Hv"], conv_size=hf_equal.CONV_WIDTH,
        norm_eps=hf_equal.NORM_EPS,
    )
    names = dict(
        in_proj_qkv=["q_proj.weight", "k_proj.weight", "v_proj.weight"], in_proj_z=["g_proj.weight"],
        in_proj_b=["b_proj.weight"], in_proj_a=["a_proj.weight"],
        conv1d=["q_conv1d.weight", "k_conv1d.weight", "v_conv1d.weight"], A_log=["A_log"],
        dt_bias=["dt_bias"], norm=["o_norm.weight"], out_proj=["o_proj.weight"],
    )
    module.to(weights["norm"].device)
    parameters = dict(module.named_parameters())
    for name, theirs in names.items():
        pieces = weights[name].split([parameters[p].shape[0] for p in theirs])
        for p, piece in zip(theirs, pieces):
            parameters[p].data = piece.view(parameters[p].shape).clone()
    return module.train(), names


def compile_share(source, T, index, count):
    """What one of `count` processes leaves in Triton's cache of the kernels of FLA's layer."""
    kinds = sorted({Hv for _, Hv in SHAPES})
    try_share(index // len(kinds), (count - 1 - index % len(kinds)) // len(kinds) + 1)
    layers, _ = import_fla(source, LAYERS, STUBS)
    shape = dict(T=T, N=1, D=256, Hk=HK, Hv=kinds[index % len(kinds)], K=DIM, V=DIM)
    module, names = hugging_face(shape, "cuda", torch.bfloat16)
    own = {n: dict(module.named_parameters())[p[0]].detach() for n, p in names.items()}
    x = torch.randn(1, T, shape["D"], device="cuda").bfloat16().requires_grad_()
    try:
        Module(*fla_layer(layers, shape, own), x, torch.randn_like(x)).forward_backward()
        torch.cuda.synchronize()
    except RuntimeError as error:
        print(f"hf_layer.py: {error}".replace("\n", " "), file=sys.stderr)


# ---- Times ----


def milliseconds(call):
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    return start, end


def medians(calls):
    """Of each of the calls, by its name."""
    times = {name: [] for name in calls}
    for turn in range(UNTIMED + REPEATS):
        for name, call in calls.items():
            found = milliseconds(call)
            torch.cuda.synchronize()  # what the host takes to launch counts, not what it has queued
            if turn >= UNTIMED:
                times[name].append(found[0].elapsed_time(found[1]))
    return {name: statistics.median(found) for name, found in times.items()}


def capture(side):
    graph = torch.cuda.CUDAGraph()
    # Relaxed: libraries allocate memory at their first call.
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), capture_error_mode="relaxed"):
        side.forward_backward(torch.cuda.current_stream().cuda_stream)
    return graph


def difference(got, want):
    """The tensor that differs most, by its tolerance: relative L2, name, share of the tolerance."""
    worst = 0.0, "nothing", 0.0
    for name, y in want.items():
        x, y = got[name].float().flatten(), y.float().flatten()
        error = float((x - y).norm() / y.norm())
        share = error / (TOLERANCE_HEADS if name in hf_equal.PER_HEAD else TOLERANCE)
        if not share <= worst[2]:
            worst = error, name, share
    return worst


def measure(library, layers, T, D, Hv, no_graph):
    """A row by columns, what a side refuses, and how many sides differ from libgdn; no_graph gets the
    names of sides that allow no graph."""
    torch.manual_seed(1)
    shape = dict(T=T, N=1, D=D, Hk=HK, Hv=Hv, K=DIM, V=DIM)
    module, names = hugging_face(shape, "cuda", torch.bfloat16)
    own = {n: dict(module.named_parameters())[p[0]].detach() for n, p in names.items()}
    # Drawn on the host: the device's generator is of no use once a capture has failed.
    x, dout = (torch.randn(1, T, D).to("cuda", torch.bfloat16) for _ in range(2))
    x.requires_grad_()
    sides = dict(libgdn=Libgdn(library, shape, own, x, dout))
    if layers:
        sides["fla"] = Module(*fla_layer(layers, shape, own), x, dout)
    sides["hf"] = Module(module, names, x, dout)
    row, said = dict(T=T, D=D, Hk=HK, Hv=Hv), []
    for name, side in list(sides.items()):
        try:
            side.forward_backward()
            torch.cuda.synchronize()
        except Exception as error:
            if name == "libgdn":
                raise
            said.append(f"{name} refuses: {error}".replace("\n", " "))
            del sides[name]
    wrong = set()
    for name in sides.keys() - {"libgdn"}:
        error, worst, share = difference(sides[name].found(), sides["libgdn"].found())
        row |= {f"{name}_difference": error, f"{name}_worst": worst}
        if not share <= 1:
            wrong.add(name)
    row |= {f"{n}_calls_ms": t for n, t in medians({n: s.forward_backward for n, s in sides.items()}).items()}
    graphs = {}
    for name, side in sides.items():
        if name in no_graph:
            continue
        try:
            if name != "libgdn":
                side.forget()
            graphs[name] = capture(side)
        except Exception as error:
            no_graph.add(name)
            said.append(f"{name}, no graph: {error}".replace("\n", " "))
            torch.cuda.synchronize()
    row |= {f"{n}_graph_ms": t for n, t in medians({n: g.replay for n, g in graphs.items()}).items()}
    for name in ("hf", "fla"):
        for how in ("calls", "graph"):
            theirs, ours = row.get(f"{name}_{how}_ms"), row.get(f"libgdn_{how}_ms")
            if theirs and ours:
                row[f"{name}_{how}_ratio"] = theirs / ours
    for name in wrong:
        left_out = {c: t for c, t in row.items() if re.match(f"{name}_.*_(ms|ratio)", c)}
        print(f"{name} and libgdn differ, left out: {left_out}")
        row = {c: t for c, t in row.items() if c not in left_out}
    return row, said, len(wrong)


# ---- The table ----

COLUMNS = "T,D,Hk,Hv,libgdn_calls_ms,libgdn_graph_ms".split(",") + [
    f"{name}_{what}"
    for name in ("hf", "fla")
    for what in "calls_ms,graph_ms,calls_ratio,graph_ratio,difference,worst".split(",")
]


def about(commit, fla):
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True, text=True,
    ).stdout.split("\n")[0]
    return [
        f"tests/bench/hf_layer.py; commit {commit}, {time.strftime('%Y-%m-%d', time.gmtime())}",
        f"{torch.cuda.get_device_name()}, driver {driver}; torch {torch.__version__}, transformers "
        f"{transformers.__version__}; {fla}",
        "forward and backward of the layer, bf16, K = V = 128, milliseconds. calls: a call at a time from "
        f"the host; graph: as one CUDA graph; in turns, medians of {REPEATS}; ratio: theirs over libgdn's.",
        "hf: transformers' Qwen3.5 module with PyTorch's kernels (its rule in fp32, without TF32); fla: FLA's "
        "GatedDeltaNet layer. difference: largest relative L2 difference of a result to libgdn's, in `worst`; "
        f"above {TOLERANCE} (gradients of one row a head {TOLERANCE_HEADS}) there are no times.",
    ]


def show(row):
    cells = [f"{row[c]:.4g}" if isinstance(row.get(c), float) else str(row.get(c, "")) for c in COLUMNS]
    print("  ".join(f"{c} {cell}" for c, cell in zip(COLUMNS, cells) if cell), flush=True)
    return cells


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("library", help="path of libgdn.so")
    p.add_argument("fla", type=pathlib.Path, nargs="?", help="folder that holds FLA's package fla")
    p.add_argument("-o", dest="folder", type=pathlib.Path, default=HERE / "results" / "other")
    p.add_argument("--tokens", type=int, default=8192)
    p.add_argument("--commit", help="default: what git says here")
    p.add_argument("--compiled", action="store_true", help="Triton's cache has FLA's kernels")
    p.add_argument("--compile", nargs=2, type=int, help=argparse.SUPPRESS)
    a = p.parse_args()
    if not torch.cuda.is_available():
        print("hf_layer.py: no CUDA device")
        sys.exit(77)
    if a.compile:
        return compile_share(a.fla, a.tokens, *a.compile)
    if not a.commit:
        git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
        a.commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    layers, fla = None, "FLA not asked for"
    if a.fla:
        import triton

        if not a.compiled:
            print(compile_all([__file__, a.library, str(a.fla), "--tokens", str(a.tokens)], 2))
        layers, version = import_fla(a.fla, LAYERS, STUBS)
        fla = f"FLA {version}, triton {triton.__version__}"
    library = Library(a.library, "cuda")
    gpu = re.sub(r"[^a-z0-9]", "-", torch.cuda.get_device_name().removeprefix("NVIDIA ").lower())
    a.folder.mkdir(parents=True, exist_ok=True)
    path = a.folder / f"{gpu}-{time.strftime('%Y-%m-%d', time.gmtime())}-{a.commit}-layers.csv"
    lines, rows, wrong, known, no_graph = about(a.commit, fla), [], 0, set(), set()
    print("\n".join(lines), flush=True)
    for D, Hv in SHAPES:
        with torch.cuda.stream(torch.cuda.Stream()):  # what can be captured is not on the default one
            row, said, differ = measure(library, layers, a.tokens, D, Hv, no_graph)
        wrong += differ
        rows.append(show(row))
        for line in said:
            if line not in known:
                print(line, flush=True)
                known.add(line)
        with open(path, "w") as file:
            file.writelines(f"# {line}\n" for line in [*lines, *sorted(known)])
            file.writelines(",".join(cells) + "\n" for cells in [COLUMNS, *rows])
        torch.cuda.empty_cache()
    print(path)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
