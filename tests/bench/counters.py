#!/usr/bin/env python3
"""Hardware counters of the operator's main kernels on a GPU, by Nsight Compute.

Profiles the first launch of each kernel that `gdn bench` makes for a few rows of the published
table: a replay a group of counters, caches flushed before each, clocks left alone; kernels run one
at a time, so a time here is not its share of a call. Writes FOLDER/<gpu>-<date>-<commit>-counters.csv.

    python3 tests/bench/counters.py build-gpu/bin/gdn [--raw FOLDER]
"""

import argparse
import csv
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
# Filter of the row, its kernels in the order of their launches.
ROWS = [
    ("fwd/16/64/32768", "fused"),
    ("fwd/16/32/32768", "prepare exact forward"),
    ("bwd/16/32/32768", "chains gradients"),
    ("fwd/2/8/8192", "prepare exact forward"),
    ("bwd/2/4/8192", "chains gradients"),
]
SECTIONS = (
    "SpeedOfLight ComputeWorkloadAnalysis MemoryWorkloadAnalysis WarpStateStats SchedulerStats "
    "LaunchStats Occupancy"
).split()
SECONDS = 30  # a row, of which each has a few seconds' work
# Column: the counter's name and its factor.
PERCENT = "pct_of_peak_sustained"
COUNTERS = {
    "us": ("gpu__time_duration.sum", 1e-3),
    "registers": ("launch__registers_per_thread", 1),
    "shared_kb": ("launch__shared_mem_per_block", 1 / 1024),
    "threads": ("launch__block_size", 1),
    "ctas": ("launch__grid_size", 1),
    "warps_a_sm": ("sm__warps_active.avg.per_cycle_active", 1),
    "tensor_pct": (f"sm__pipe_tensor_cycles_active.avg.{PERCENT}_active", 1),
    "issue_pct": (f"smsp__issue_active.avg.{PERCENT}_active", 1),
    "dram_pct": (f"gpu__dram_throughput.avg.{PERCENT}_elapsed", 1),
    "read_gb": ("dram__bytes_read.sum", 1e-9),
    "written_gb": ("dram__bytes_write.sum", 1e-9),
    "l2_pct": (f"lts__t_sectors.avg.{PERCENT}_elapsed", 1),
    "shared_pct": (f"l1tex__throughput.avg.{PERCENT}_active", 1),
    "cycles": ("smsp__average_warp_latency_per_inst_issued.ratio", 1),
}
EXTRA = "gpu__time_duration.sum dram__bytes_read.sum dram__bytes_write.sum".split()
STALL = re.compile(r"smsp__average_warps_issue_stalled_(\w+)_per_issue_active\.ratio")


def number(text):
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return None


def read_raw(text):
    """Launches by counters, of ncu's page raw."""
    lines = [line for line in text.splitlines() if line.startswith('"')]
    rows = list(csv.DictReader(lines))
    return [row for row in rows if row["ID"].isdigit()]  # below the header are units


def distill(row):
    found = {}
    for column, (name, factor) in COUNTERS.items():
        value = number(row.get(name, ""))
        if value is not None:
            found[column] = factor * value
    stalls = {}
    for name, text in row.items():
        match = STALL.fullmatch(name)
        if match and match[1] != "selected" and not match[1].endswith("not_issued"):
            stalls[match[1]] = number(text) or 0.0
    most = sorted(stalls, key=stalls.get, reverse=True)[:4]
    found["stalls"] = " ".join(f"{name} {stalls[name]:.2f}" for name in most)
    return found


def profile(ncu, gdn, row, kernels, raw, scratch):
    names = kernels.split()
    log = raw / (row.replace("/", "_") + ".csv")
    command = [
        ncu, "--csv", "--page", "raw", "--print-units", "base", "--clock-control", "none",
        "--log-file", str(log), "--kernel-name-base", "function",
        "--kernel-name", f"regex:({'|'.join(names)})_kernel", "--launch-count", str(len(names)),
        "--kill", "yes", "--metrics", ",".join(EXTRA),
    ]
    for section in SECTIONS:
        command += ["--section", section]
    command += [
        str(gdn), "bench", "--rows", str(HERE / "published_h200.csv"), "--filter", row, "-o", str(scratch),
        "--label", "counters", "--repeat", "5",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS)
        said = (done.stdout + done.stderr).strip()
    except subprocess.TimeoutExpired:
        said = f"no end within {SECONDS} s"
    text = log.read_text() if log.exists() else ""
    launches = read_raw(text)
    if len(launches) < len(names):
        print(f"{row}: {len(launches)} of {len(names)} launches; {said[-600:]}\n{text[-1200:]}", flush=True)
    return launches


COLUMNS = ["row", "kernel", *COUNTERS, "stalls"]


def main():
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("gdn", type=pathlib.Path, help="path of the tool gdn")
    p.add_argument("-o", dest="folder", type=pathlib.Path, default=HERE / "results" / "other")
    p.add_argument("--raw", type=pathlib.Path, help="keeps ncu's own tables there")
    p.add_argument("--ncu", default=shutil.which("ncu") or "/usr/local/cuda/bin/ncu")
    p.add_argument("--commit", help="default: what git says here")
    a = p.parse_args()
    ask = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        card = subprocess.run(ask, capture_output=True, text=True).stdout.split("\n")[0]
        version = subprocess.run([a.ncu, "--version"], capture_output=True, text=True).stdout.split("\n")
    except FileNotFoundError as error:
        print(f"counters.py: {error}")
        sys.exit(77)
    if not a.commit:
        git = ["git", "-C", str(HERE), "rev-parse", "--short", "HEAD"]
        a.commit = subprocess.run(git, capture_output=True, text=True).stdout.strip() or "unknown"
    version = next((line for line in version if line.startswith("Version")), "version unknown")
    date = time.strftime("%Y-%m-%d", time.gmtime())
    lines = [
        f"tests/bench/counters.py; commit {a.commit}, {date}",
        f"{card}; Nsight Compute {version}; caches flushed, clocks left alone, a kernel at a time",
        "us: of the launch; tensor_pct, issue_pct, shared_pct (shared memory and L1): of the active cycles; "
        "dram_pct, l2_pct: of all; stalls: cycles of a warp between two instructions (cycles in all), by "
        "reason, the four largest",
    ]
    gpu = re.sub(r"[^a-z0-9]", "-", card.split(",")[0].removeprefix("NVIDIA ").lower())
    a.folder.mkdir(parents=True, exist_ok=True)
    path = a.folder / f"{gpu}-{date}-{a.commit}-counters.csv"
    missing, cells = 0, [COLUMNS]
    with tempfile.TemporaryDirectory() as scratch:
        raw = a.raw or pathlib.Path(scratch)
        raw.mkdir(parents=True, exist_ok=True)
        for row, kernels in ROWS:
            launches = profile(a.ncu, a.gdn, row, kernels, raw, scratch)
            missing += len(kernels.split()) - len(launches)
            for launch in launches:
                name = re.search(r"(\w+)_kernel", launch["Kernel Name"])[1]
                found = dict(row=row, kernel=name) | distill(launch)
                shown = [found.get(c, "") for c in COLUMNS]
                cells.append([f"{c:.4g}" if isinstance(c, float) else str(c) for c in shown])
                print(*cells[-1], flush=True)
            with open(path, "w") as file:
                file.writelines(f"# {line}\n" for line in lines)
                file.writelines(",".join(line) + "\n" for line in cells)
    print(path)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
