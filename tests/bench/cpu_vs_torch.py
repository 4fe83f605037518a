#!/usr/bin/env python3
"""Forward and backward of the operator on the CPU: libgdn against eager PyTorch.

The peer is torch_chunk_gated_delta_rule of transformers with autograd, in fp32, on the same inputs,
with the same number of threads. Both run in one process, in turns; each figure is the median of
--repeat rounds after one round that is not counted. The results must agree before anything is
printed. Needs torch and transformers.

    python3 tests/bench/cpu_vs_torch.py build/lib/libgdn.so --threads 1 2
"""

import argparse
import csv
import os
import pathlib
import platform
import statistics
import sys
import time

import torch
from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule

from binding import SAVE_INVERSE, SAVE_STATES, Gdn

FLAGS = {"none": 0, "save": SAVE_STATES | SAVE_INVERSE}
TOLERANCE = 1e-4  # both are fp32; a wrong factor or a missing term shows far above it


class Torch:
    """The same in eager PyTorch."""

    def __init__(self, inputs):
        self.leaves = {
            n: inputs[n].clone().unsqueeze(0).requires_grad_() for n in "q k v g beta".split()
        }
        self.do = inputs["do"].unsqueeze(0)

    def forward(self):
        for leaf in self.leaves.values():
            leaf.grad = None
        x = self.leaves
        self.o, _ = torch_chunk_gated_delta_rule(
            x["q"], x["k"], x["v"], g=x["g"], beta=x["beta"], chunk_size=64
        )

    def backward(self):
        self.o.backward(self.do)

    def results(self):
        found = {"d" + n: leaf.grad[0] for n, leaf in self.leaves.items()}
        return {"o": self.o.detach()[0], **found}


def draw(T, Hk, Hv, K, V):
    torch.manual_seed(1)
    unit = torch.nn.functional.normalize
    return {
        "q": unit(torch.randn(T, Hk, K), dim=-1),
        "k": unit(torch.randn(T, Hk, K), dim=-1),
        "v": torch.randn(T, Hv, V),
        "g": -torch.nn.functional.softplus(torch.randn(T, Hv)),
        "beta": torch.sigmoid(torch.randn(T, Hv)),
        "do": torch.randn(T, Hv, V),
    }


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def worst_difference(a, b):
    """Largest relative L2 difference, over results and heads."""
    a, b = a.results(), b.results()
    worst = 0.0
    for name, want in b.items():
        for head in range(want.shape[1]):
            error = (a[name][:, head] - want[:, head]).norm() / want[:, head].norm()
            if not error <= TOLERANCE:
                sys.exit(f"results differ: {name}, head {head}: {error:.1e} relative L2")
            worst = max(worst, float(error))
    return worst


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("library", help="path of libgdn.so")
    p.add_argument("--tokens", type=int, default=4096)
    p.add_argument("--heads", type=int, nargs=2, default=[4, 4], metavar=("Hk", "Hv"))
    p.add_argument("--dims", type=int, nargs=2, default=[128, 128], metavar=("K", "V"))
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    p.add_argument("--repeat", type=int, default=7)
    p.add_argument("--csv", default=pathlib.Path(__file__).parent / "results" / "cpu_vs_torch.csv")
    a = p.parse_args()

    inputs = draw(a.tokens, *a.heads, *a.dims)
    rows = []
    for threads in a.threads:
        torch.set_num_threads(threads)
        for name, flags in FLAGS.items():
            gdn, peer = Gdn(a.library, "cpu", inputs, flags, threads), Torch(inputs)
            times = {k: [] for k in ("gdn forward", "gdn backward", "torch forward", "torch backward")}
            for round_ in range(a.repeat + 1):
                for label, side in (("gdn", gdn), ("torch", peer)):
                    forward, backward = timed(side.forward), timed(side.backward)
                    if round_:
                        times[label + " forward"].append(forward)
                        times[label + " backward"].append(backward)
            difference = worst_difference(gdn, peer)
            both = {
                side: statistics.median(
                    f + b for f, b in zip(times[side + " forward"], times[side + " backward"])
                )
                for side in ("gdn", "torch")
            }
            row = {"threads": threads, "saved": name}
            row |= {k.replace(" ", "_") + "_ms": 1e3 * statistics.median(v) for k, v in times.items()}
            row |= {k + "_ms": 1e3 * v for k, v in both.items()}
            row |= {"speedup": both["torch"] / both["gdn"], "worst_difference": difference}
            row |= {"load": os.getloadavg()[0]}
            rows.append(row)

    cpu = platform.processor() or platform.machine()
    for line in open("/proc/cpuinfo") if os.path.exists("/proc/cpuinfo") else []:
        if line.startswith("model name"):
            cpu = line.split(":")[1].strip()
            break
    about = (
        f"T={a.tokens} Hk={a.heads[0]} Hv={a.heads[1]} K={a.dims[0]} V={a.dims[1]} fp32, "
        f"median of {a.repeat}; {cpu}; torch {torch.__version__}; "
        f"libgdn {gdn.lib.gdn_build_features().decode()}; {time.strftime('%Y-%m-%d')}"
    )
    print(about)
    print(f"{'threads':>7} {'saved':>6} | {'gdn fwd':>8} {'bwd':>8} {'both':>8} |"
          f" {'torch fwd':>9} {'bwd':>8} {'both':>8} | {'speedup':>7} {'differ':>8} {'load':>5}")
    for r in rows:
        print(
            f"{r['threads']:7d} {r['saved']:>6} | {r['gdn_forward_ms']:8.1f} "
            f"{r['gdn_backward_ms']:8.1f} {r['gdn_ms']:8.1f} | {r['torch_forward_ms']:9.1f} "
            f"{r['torch_backward_ms']:8.1f} {r['torch_ms']:8.1f} | {r['speedup']:6.1f}x "
            f"{r['worst_difference']:8.1e} {r['load']:5.1f}"
        )
    path = pathlib.Path(a.csv)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="") as f:
        f.write(f"# {about}; times in ms\n")
        writer = csv.DictWriter(f, rows[0].keys())
        writer.writeheader()
        for r in rows:
            writer.writerow({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in r.items()})


if __name__ == "__main__":
    main()
