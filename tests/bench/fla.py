#!/usr/bin/env python3
"""The operator on a GPU: libgdn against flash-linear-attention's Triton kernels, in one process.

Inputs as the header of published_h200.csv says, the same tensors for both; each call is a CUDA
graph, the two take turns, a time is the median of 100 replays. Backward gets the gate's sums and the
inverse from forward. A row's results have to agree, or no time of it is written. Where FLA refuses
to compute, the table says why. Writes FOLDER/<gpu>-<date>-<commit>-fla.csv.

Needs torch and triton, and FLA's source: the folder that holds its package fla, of which only the
operator is imported. Triton compiles some two hundred variants first: a minute on 16 cores.

    python3 tests/bench/fla.py build/lib/libgdn.so FLA_SOURCE [--heads 16/32]
"""

import argparse
import csv
import math
import pathlib
import re
import statistics
import subprocess
import sys
import time

try:
    import torch
    import triton
except ImportError as error:
    sys.exit(f"fla.py: {error}; needs torch and triton")

from binding import SAVE_INVERSE, Gdn
from fla_source import compile_all, import_fla, try_share

HERE = pathlib.Path(__file__).resolve().parent
# Rows of the published table: heads and lengths ("4x8192": four sequences of 8192); backward: all of
# its rows with these heads.
FORWARD = {
    (16, 64): ("32768", "8192", "2048", "4x8192"),
    (16, 32): ("32768", "8192", "8x4096"),
    (2, 8): ("32768", "8192", "4x2048"),
}
BACKWARD = ((16, 32), (4, 8))
DIM, SCALE, UNDECAYED = 128, 128**-0.5, 0.25
UNTIMED, REPEATS, TURNS = 10, 100, 5
# Of FLA's packages, whose __init__ import every model; without these the operator imports alone.
OPERATOR = "fla.ops.gated_delta_rule.chunk"
STUBS = ("fla", "fla.ops", "fla.modules", "fla.ops.gated_delta_rule")
TOLERANCE = 0.1  # of a head, both in bf16; a wrong factor or a missing term is above it


# ---- Rows and inputs ----


def lengths_of(text):
    return [int(n) for n in text.split("+")]


def short(text):
    lengths = lengths_of(text)
    same = len(lengths) > 1 and len(set(lengths)) == 1
    return f"{len(lengths)}x{lengths[0]}" if same else text


def wanted(pairs, heads):
    """Those of the pairs (Hk, Hv) that --heads names; without it all."""
    return [pair for pair in pairs if not heads or "/".join(map(str, pair)) in heads]


def read_rows(path, heads_wanted):
    with open(path) as file:
        table = list(csv.DictReader(line for line in file if not line.startswith("#")))
    chosen = []
    for row in table:
        heads = int(row["h_k"]), int(row["h_v"])
        backward = row["pass"] == "bwd"
        timed = heads in BACKWARD if backward else short(row["lengths"]) in FORWARD.get(heads, ())
        if timed and wanted([heads], heads_wanted):
            chosen.append((backward, heads, row))
    return chosen


def draw(heads, lengths):
    torch.manual_seed(1)
    T, (Hk, Hv) = sum(lengths), heads
    normal = dict(device="cuda", dtype=torch.float32)
    unit = torch.nn.functional.normalize
    x = dict(
        q=unit(torch.randn(T, Hk, DIM, **normal), dim=-1).bfloat16(),
        k=unit(torch.randn(T, Hk, DIM, **normal), dim=-1).bfloat16(),
        v=torch.randn(T, Hv, DIM, **normal).bfloat16(),
        do=torch.randn(T, Hv, DIM, **normal).bfloat16(),
        g=torch.nn.functional.logsigmoid(torch.randn(T, Hv, **normal)) / 16,
        beta=torch.sigmoid(torch.randn(T, Hv, **normal)),
        initial_state=torch.randn(len(lengths), Hv, DIM, DIM, **normal),
        dht=torch.randn(len(lengths), Hv, DIM, DIM, **normal) / 8,
    )
    x["g"][:, torch.randperm(Hv, device="cuda")[: int(UNDECAYED * Hv)]] = 0
    ends = torch.tensor([0] + lengths, dtype=torch.int64).cumsum(0)
    x["cu_seqlens"] = ends.cuda()
    return x


class Fla:
    """FLA's forward and backward of the same inputs."""

    def __init__(self, operator, x):
        self.operator, self.x = operator, {k: t.unsqueeze(0) for k, t in x.items()}
        for name in ("initial_state", "dht", "cu_seqlens"):
            self.x[name] = x[name]
        chunks = operator.prepare_chunk_indices(x["cu_seqlens"], 64)
        self.varlen = dict(cu_seqlens=x["cu_seqlens"], chunk_indices=chunks)
        self.found = {}

    def forward(self, stream=None):
        x = self.x
        self.g, o, self.A, final_state, *_ = self.operator.chunk_gated_delta_rule_fwd(
            q=x["q"], k=x["k"], v=x["v"], g=x["g"], beta=x["beta"], scale=SCALE,
            initial_state=x["initial_state"], output_final_state=True, **self.varlen,
        )
        self.found |= dict(o=o[0], final_state=final_state)

    def backward(self, stream=None):
        x = self.x
        dq, dk, dv, dbeta, dg, dh0, *_ = self.operator.chunk_gated_delta_rule_bwd(
            q=x["q"], k=x["k"], v=x["v"], g=self.g, beta=x["beta"], A=self.A, scale=SCALE,
            initial_state=x["initial_state"], do=x["do"], dht=x["dht"], **self.varlen,
        )
        self.found |= dict(dq=dq[0], dk=dk[0], dv=dv[0], dg=dg[0], dbeta=dbeta[0], dh0=dh0)

    def results(self):
        return self.found


# ---- Triton's variants, compiled side by side ----


def passes(heads_wanted):
    forward, backward = wanted(FORWARD, heads_wanted), wanted(BACKWARD, heads_wanted)
    return [(heads, False) for heads in forward] + [(heads, True) for heads in backward]


def compile_share(source, passes, index, count):
    """What one of `count` processes leaves in Triton's cache."""
    heads, backward = passes[index % len(passes)]
    try_share(index // len(passes), (count - 1 - index % len(passes)) // len(passes) + 1)
    operator, _ = import_fla(source, OPERATOR, STUBS)
    fla = Fla(operator, draw(heads, [300, 100]))
    try:
        fla.forward()
        if backward:
            fla.backward()
        torch.cuda.synchronize()
    except (RuntimeError, triton.runtime.errors.OutOfResources) as error:
        print(f"fla.py: {heads}: {error}", file=sys.stderr)


# ---- Times ----


def capture(call):
    graph = torch.cuda.CUDAGraph()
    call()  # loads the kernels; FLA chooses its variants
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        call(torch.cuda.current_stream().cuda_stream)
    return graph


def median_times(graphs):
    """Milliseconds, one a graph."""
    times = [[] for _ in graphs]
    for turn in range(TURNS):
        for graph, found in zip(graphs, times):
            for _ in range(2 if turn else UNTIMED):
                graph.replay()
            for _ in range(REPEATS // TURNS):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                graph.replay()
                end.record()
                found.append((start, end))
    torch.cuda.synchronize()
    return [statistics.median(s.elapsed_time(e) for s, e in found) for found in times]


def difference(got, want):
    """Largest relative L2 difference over heads, and where; got and want by name."""
    worst = 0.0, "nothing"
    for name, y in want.items():
        x, y = got[name].float(), y.float()
        each = [d for d in range(y.dim()) if d != 1]
        errors = ((x - y).square().sum(each) / y.square().sum(each)).sqrt()
        error = float(errors.max()) if bool(errors.isfinite().all()) else math.inf
        worst = max(worst, (error, name))
    return worst


def measure(a, operator, backward, heads, row):
    x = draw(heads, lengths_of(row["lengths"]))
    gdn = Gdn(a.library, "cuda", x, SAVE_INVERSE if backward else 0)
    fla, refused = Fla(operator, x), ""
    gdn.forward()
    fla.forward()
    sides = [fla.backward, gdn.backward] if backward else [fla.forward, gdn.forward]
    try:
        fla_graph = capture(sides[0])
    except (RuntimeError, triton.errors.TritonError) as error:
        refused = str(error).replace("\n", " ")
    if refused:
        return dict(libgdn_ms=median_times([capture(sides[1])])[0], refused=refused)
    graphs = [fla_graph, capture(sides[1])]
    for tensor in gdn.results().values():
        tensor.fill_(float("nan"))
    times = median_times(graphs)
    names = "dq dk dv dg dbeta dh0" if backward else "o final_state"
    mine = {name: gdn.results()[name] for name in names.split()}
    error, name = difference(mine, {n: fla.results()[n] for n in mine})
    found = dict(difference=error, worst=name)
    if error <= TOLERANCE:
        found |= dict(fla_ms=times[0], libgdn_ms=times[1], ratio=times[0] / times[1])
    return found


# ---- The table ----

COLUMNS = "pass,model,h_k,h_v,lengths,fla_published_ms,fla_ms,libgdn_ms,ratio,difference,worst".split(",")


def about(a, version):
    driver = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"],
        capture_output=True, text=True,
    ).stdout.split("\n")[0]
    return [
        f"tests/bench/fla.py; commit {a.commit}, {time.strftime('%Y-%m-%d', time.gmtime())}",
        f"{torch.cuda.get_device_name()}, driver {driver}; FLA {version}, triton {triton.__version__}, "
        f"torch {torch.__version__}",
        "fla_ms, libgdn_ms: a call as one CUDA graph, in turns, median of "
        f"{REPEATS} replays; ratio: theirs over ours; difference: largest relative L2 difference of a "
        f"head between the two, in `worst`; above {TOLERANCE} there are no times.",
        "fla_published_ms and the inputs are those of published_h200.csv.",
    ]


def show(row):
    cells = [f"{row[c]:.4g}" if isinstance(row.get(c), float) else str(row.get(c, "")) for c in COLUMNS]
    name = f"{cells[0]} {cells[2]}/{cells[3]} {short(row['lengths'])}"
    said = f"{cells[8]}x, difference {cells[9]} ({cells[10]})" if cells[9] else "refused"
    print(f"{name:60} FLA {cells[6]:>8} ms, libgdn {cells[7]:>8} ms, {said}", flush=True)
    return cells


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("library", help="path of libgdn.so")
    p.add_argument("fla", type=pathlib.Path, help="folder that holds FLA's package fla")
    p.add_argument("-o", dest="folder", type=pathlib.Path, default=HERE / "results" / "other")
    p.add_argument(
        "--heads", action="append", default=[], metavar="Hk/Hv",
        choices=sorted({f"{k}/{v}" for k, v in (*FORWARD, *BACKWARD)}),
        help="rows with these heads alone; repeatable",
    )
    p.add_argument("--commit", help="default: what git says here")
    p.add_argument("--compiled", action="store_true", help="Triton's cache has the kernels")
    p.add_argument("--compile", nargs=2, type=int, help=argparse.SUPPRESS)
    a = p.parse_args()
    if not (a.fla / "fla" / "ops").is_dir():
        sys.exit(f"fla.py: {a.fla}: expected the folder of FLA's package fla, found none there")
    if not torch.cuda.is_available():
        print("fla.py: no CUDA device")
        sys.exit(77)
    if a.compile:
        return compile_share(a.fla, passes(a.heads), *a.compile)
    if not a.commit:
        git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
        a.commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    if not a.compiled:
        start = time.time()
        command = [__file__, a.library, str(a.fla)]
        for heads in a.heads:
            command += ["--heads", heads]
        print(compile_all(command, len(passes(a.heads))))
        print(f"compiled in {time.time() - start:.0f} s", flush=True)
    operator, version = import_fla(a.fla, OPERATOR, STUBS)
    gpu = re.sub(r"[^a-z0-9]", "-", torch.cuda.get_device_name().removeprefix("NVIDIA ").lower())
    a.folder.mkdir(parents=True, exist_ok=True)
    path = a.folder / f"{gpu}-{time.strftime('%Y-%m-%d', time.gmtime())}-{a.commit}-fla.csv"
    rows, refused, wrong = [], set(), 0
    head = about(a, version)
    for backward, heads, row in read_rows(HERE / "published_h200.csv", a.heads):
        found = measure(a, operator, backward, heads, row)
        wrong += "difference" in found and "ratio" not in found
        if "refused" in found:
            refused.add(("backward: " if backward else "forward: ") + found["refused"])
        rows.append(show(row | dict(fla_published_ms=row["fla_ms"], fla_ms="") | found))
        lines = head + [f"FLA refuses: {message}" for message in sorted(refused)]
        with open(path, "w") as file:
            file.writelines(f"# {line}\n" for line in lines)
            file.writelines(",".join(cells) + "\n" for cells in [COLUMNS, *rows])
    print("\n".join(lines), path, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
