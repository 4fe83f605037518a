#!/usr/bin/env python3
"""gdn plan on one device: the text, the picture, what is refused.  plan.py GDN FOLDER"""
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as xml

try:
    import h5py
    import numpy as np
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

gdn, folder = (os.path.abspath(a) for a in sys.argv[1:3])
shutil.rmtree(folder, ignore_errors=True)
os.makedirs(folder)
os.chdir(folder)
passed = failed = 0


def check(condition, message):
    global passed, failed
    passed, failed = (passed + 1, failed) if condition else (passed, failed + 1)
    if not condition:
        print("FAILED:", message, file=sys.stderr)


def run(*args):
    return subprocess.run([gdn, "plan", *map(str, args)], capture_output=True, text=True, timeout=60)


T, HK, HV, D = 8192, 1, 2, 16
random = np.random.default_rng(5)
with h5py.File("case.h5", "w") as file:
    file.attrs["format"] = "gdn-case"
    file.attrs["version"] = 1
    k = random.standard_normal((T, HK, D))
    file["q"] = file["k"] = (k / np.linalg.norm(k, axis=-1, keepdims=True)).astype(np.float32)
    file["v"] = random.standard_normal((T, HV, D)).astype(np.float32)
    file["g"] = np.broadcast_to([0.0, -0.2], (T, HV)).astype(np.float32)
    file["beta"] = np.full((T, HV), 0.5, np.float32)

r = run("case.h5", "-o", "plan.svg")
check(r.returncode == 0, r.stderr)
check("1 sequences, 128 chunks of 64 tokens, 2 v-heads, bf16, threshold -10; 132 multiprocessors" in r.stdout,
      r.stdout)
taken = [line for line in r.stdout.splitlines() if "<- taken" in line]
check(len(taken) == 1 and int(taken[0].split()[0]) > 1, r.stdout)
segments = int(taken[0].split()[0])
check("exactly: it does not decay within a segment" in r.stdout, r.stdout)
check("a warm-up of 1 to 1 chunks" in r.stdout, r.stdout)
picture = xml.parse("plan.svg").getroot()
bars = picture.findall("{http://www.w3.org/2000/svg}rect")
check(len(bars) > 2 * segments, f"{len(bars)} bars for {segments} segments")

r = run("case.h5", "--exact", "--dtype", "fp32")
check(r.returncode == 0 and "256 chunks of 32 tokens" in r.stdout and "threshold -inf" in r.stdout, r.stdout)
check("a warm-up" not in r.stdout, r.stdout)
r = run("case.h5", "--multiprocessors", 2)
check(r.returncode == 0 and "Nothing is cut" in r.stdout, r.stdout)

for code, has, args in (
        (2, "--ranks: expected an integer from 1", ["case.h5", "--ranks", 0]),
        (2, "without --ranks", ["case.h5", "--ranks", 2, "-o", "x.svg"]),
        (2, "--multiprocessors", ["case.h5", "--multiprocessors", "all"]),
        (2, "fp64", ["case.h5", "--dtype", "fp64"]),
        (2, "absent.h5", ["absent.h5"]),
        (4, "nowhere/x.svg", ["case.h5", "-o", "nowhere/x.svg"])):
    r = run(*args)
    check(r.returncode == code, f"{args}: exit {r.returncode}: {r.stderr}")
    check(r.stderr.count("\n") == 1 and has in r.stderr, f"{args}: {r.stderr!r}")
check(sorted(os.listdir()) == ["case.h5", "plan.svg"], os.listdir())
print(f"{passed} passed, {failed} failed")
sys.exit(failed > 0)
