"""ranks.py GDN FOLDER MPIRUN [long]: training over ranks is training on one, up to rounding; the same
ranks give the same bits; any number of ranks continues a checkpoint; SIGTERM stops all together."""
import os
import re
import signal
import subprocess
import sys

import numpy as np
from support import Checks, arguments, contents, differences, make_data, newest, rank_processes, run

gdn = arguments()
mpirun, long = sys.argv[3].split(), "long" in sys.argv[4:]
c = Checks()
make_data(gdn)
steps = 200 if long else 40
# Ranks cut within sequences and chunks; of 2 groups one has a sequence more.
FLAGS = ["--data", "data.h5", "--width", "32", "--layers", "2", "--key-heads", "1", "--value-heads", "2", "--key-dim", "8",
         "--value-dim", "8", "--mlp", "48", "--context", "96", "--batch-tokens", "1440", "--warmup", "20",
         "--lr", "5e-4", "--beta2", "0.999", "--min-lr", "1e-4", "--eval-tokens", "500", "--log-every", "20", "--threads", "1", "--checkpoint-every", "0"]
EARLY, TOLERANCE = 1e-6, 2e-5  # of the first 20 steps, and of all unless one rank's own rounding makes more


def command(out, ranks, *more):
    launch = mpirun + ["-n", str(ranks)] if ranks else []
    return [*launch, gdn, "train", "--out", out, *FLAGS, "--steps", str(steps), "--eval-every", "20", *more]


def train(out, ranks, *more, code=0):
    return run(*command(out, ranks, *more), code=code)


def distance(path, other):
    """Largest relative differences of two runs: losses of the first steps, of all, held-out losses."""
    a, b = (contents(newest(p))["log/values"] for p in (path, other))
    c.check(a.shape == b.shape == (steps, 6), f"{other}: {b.shape[0]} rows, expected {steps}")
    found = [float(np.nanmax((abs(a - b) / a)[rows, column])) for rows, column in ((slice(20), 1), (slice(None), 1), (slice(None), 4))]
    return np.array(found)


def check_curve(out):
    found = distance("plain", out)
    c.check(found[0] <= EARLY and max(found[1:]) <= tolerance, f"{out}: {found}, expected at most {EARLY} and {tolerance}")
    return found


# One rank under mpirun is one rank without.
train("plain", 0)
train("one", 1)
c.check(not differences(newest("plain"), newest("one")), f"-n 1: differ: {differences(newest('plain'), newest('one'))}")

# More ranks: the same curve.
# Training amplifies rounding: a weight near zero moves by its gradient's sign. By how much, other orders of
# summation on one rank show.
print(f"{steps} steps; largest relative differences from one rank: loss of 20 steps, of all, held-out loss")
rounding = np.zeros(3)
for threads in "2", "3":
    train("threads" + threads, 0, "--threads", threads)
    found = distance("plain", "threads" + threads)
    print(f"  {threads} threads: {found}")
    rounding = np.maximum(rounding, found)
c.check(max(rounding) < 1e-4, f"one rank's own rounding: {rounding}")
tolerance = max(TOLERANCE, 20 * max(rounding))
for ranks, width in (2, 2), (2, 1), (3, 3), (4, 4), (4, 2):
    out = f"ranks{ranks}x{width}"
    text = train(out, ranks, "--sequence-ranks", str(width))
    print(f"  {ranks} ranks, {width} a sequence: {check_curve(out)}")
    c.check(f"1 threads each of {ranks} ranks, {width} a sequence" in text, f"{out}: {text}")
    with open(f"{out}/log.txt") as file:
        lines = [line.split()[1] for line in file if "tokens/s" in line]
    expected = [f"{s}/{steps}" for s in (1, *range(20, steps + 1, 20))]
    c.check(lines == expected, f"{out}: log.txt has {lines}, expected {expected}")
    c.check(len(re.findall("done:", text)) == 1, f"{out}: {text}")
run(gdn, "plot", "plain", "ranks2x2", "ranks4x4", "-o", "ranks.svg")

# The same ranks: the same bits.
train("again", 3)
found = [name for name in differences(newest("ranks3x3"), newest("again")) if name != "config"]
c.check(not found, f"run again: differ: {found}")

# The refusal of one is that of all: here of a model that no device computes, or of a machine without one.
text = train("cuda", 2, "--backend", "cuda", code=None)
c.check(re.search("K is 8, expected a multiple of 16|backend cuda", text), text)
c.check(not os.path.exists("cuda"), "the refused run left a folder")

# A checkpoint goes on with the same ranks bit for bit, and with others up to rounding.
half = str(steps // 2)
train("stopped", 2, "--stop-at", half)
text = train("stopped", 2, "--resume")
c.check("note:" not in text, text)
found = [name for name in differences(newest("ranks2x2"), newest("stopped")) if name != "config"]
c.check(not found, f"resumed by the same ranks: differ: {found}")
for before, after in (2, 4), (4, 0), (0, 3):
    out = f"from{before}to{after}"
    train(out, before, "--stop-at", half)
    text = train(out, after, "--resume")
    note = f"note: {max(after, 1)} ranks, {max(after, 1)} a sequence, now, {max(before, 1)}, {max(before, 1)} a sequence, before"
    c.check(note in text, f"{out}: no note: {text}")
    print(f"  {max(before, 1)} ranks, then {max(after, 1)}: {check_curve(out)}")

# SIGTERM to mpirun, which passes it on, and to one rank alone: all stop after the same step, with a checkpoint.
for alone in False, True:
    out = f"term{int(alone)}"
    job = subprocess.Popen(command(out, 2, "--steps", "1000000"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "step 20/" not in job.stdout.readline():
        pass
    victim = job.pid
    if alone:
        victim = rank_processes(gdn, out)[1]
    os.kill(victim, signal.SIGTERM)
    text, errors = job.communicate(timeout=60)
    c.check(len(re.findall("stopped after step", text)) == 1, f"{out}: {text}{errors}")
    c.check(alone <= (job.returncode == 0), f"{out}: exit {job.returncode}: {errors}")
    c.check(f"{int(re.search('stopped after step ([0-9]+)', text)[1]):012d}" in newest(out), f"{out}: {newest(out)}")
c.finish()
