"""Helpers of the trainer's scripts: running the command, comparing checkpoints and logs."""
import glob
import os
import re
import shutil
import subprocess
import sys

import h5py
import numpy as np

FLAGS = ["--width", "32", "--layers", "2", "--key-heads", "1", "--value-heads", "2", "--key-dim", "8",
         "--value-dim", "8", "--mlp", "48", "--context", "32", "--batch-tokens", "128", "--warmup", "4",
         "--lr", "5e-3", "--min-lr", "1e-3", "--eval-tokens", "500", "--log-every", "5", "--threads", "2"]


class Checks:
    def __init__(self):
        self.passed = self.failed = 0

    def check(self, condition, message):
        if condition:
            self.passed += 1
        else:
            self.failed += 1
            print("FAILED:", message)

    def finish(self):
        print(f"{self.passed} passed, {self.failed} failed")
        sys.exit(1 if self.failed or not self.passed else 0)


def arguments():
    """The command, and an empty folder to work in."""
    gdn, folder = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    os.chdir(folder)
    return gdn


def run(*command, code=0):
    """Runs to the end; returns stdout. Any other exit code than `code` stops the test."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    if code is not None and done.returncode != code:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}, expected {code}\n{done.stdout}{done.stderr}")
    return done.stdout if code == 0 else done.stderr


def make_text(path, words=4000):
    """A text with something to learn: words of few syllables, deterministic."""
    rng = np.random.default_rng(4)
    vocabulary = ["".join(rng.choice(list("ab ceilnorst"), size=rng.integers(2, 6))) for _ in range(40)]
    with open(path, "w") as file:
        file.write(" ".join(rng.choice(vocabulary, size=words)))


def make_data(gdn):
    make_text("text.txt")
    return run(gdn, "data", "text.txt", "-o", "data.h5", "--heldout", "0.1")


def newest(folder):
    return sorted(glob.glob(os.path.join(folder, "step-*.h5")))[-1]


def contents(path):
    """Every dataset of a checkpoint, without the times in its log."""
    out = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: out.__setitem__(name, np.array(item))
                        if isinstance(item, h5py.Dataset) else None)
        names = out["log/names"].tobytes().decode().split(",")
        timed = [names.index(name) for name in ("tokens_per_s", "mfu", "memory", "communication")]
        out["log/values"] = np.delete(out["log/values"], timed, axis=1)
    return out


def differences(path, other, skip=()):
    """Names of entries that are not bitwise equal."""
    a, b = contents(path), contents(other)
    missing = set(a) ^ set(b)
    return sorted(missing) + [name for name in sorted((set(a) & set(b)) - set(skip))
                              if a[name].dtype != b[name].dtype or a[name].tobytes() != b[name].tobytes()]


def rank_processes(gdn, out):
    """The processes of a run over ranks, by rank."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().decode().split("\0")
            with open(f"/proc/{pid}/environ", "rb") as file:
                rank = re.search(rb"OMPI_COMM_WORLD_RANK=(\d+)", file.read())
        except OSError:
            continue
        if words[0] == gdn and out in words and rank:
            found.append((int(rank[1]), int(pid)))
    return [pid for _, pid in sorted(found)]
