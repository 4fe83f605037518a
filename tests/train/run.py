"""Training runs: the loss falls, a resumed run is the uninterrupted one, another context works, a NaN stops."""
import os
import pty
import re
import signal
import subprocess

from support import FLAGS, Checks, arguments, differences, make_data, newest, run

gdn = arguments()
c = Checks()
line = make_data(gdn)
unigram = float(re.search(r"unigram=([\d.]+)", line)[1])


def train(out, *more, code=0):
    return run(gdn, "train", "--data", "data.h5", "--out", out, *FLAGS, *more, code=code)


def heldout(text):
    return float(re.search(r"done: .*heldout_loss=([\d.]+)", text)[1])


# One go: learns more than the letters' frequencies.
text = train("whole", "--steps", "300", "--eval-every", "100", "--checkpoint-every", "100", "--sample", "40")
c.check(heldout(text) < unigram - 0.3, f"held-out loss {heldout(text)}, unigram entropy {unigram}")
c.check("--- sample" in text, "no sample")
c.check(len([f for f in os.listdir("whole") if f.startswith("step-")]) == 2, "keep = 2 checkpoints")

# Stopped and resumed: the same bits and the same log.
one = ["--steps", "20", "--eval-every", "5", "--checkpoint-every", "7"]
train("one", *one)
text = train("two", *one, "--stop-at", "10")
c.check("stopped after step 10 of 20" in text, "no line on the stop: " + text)
text = train("two", *one, "--resume")
c.check("at step 10" in text, "resumed elsewhere: " + text)
c.check(not differences(newest("one"), newest("two")), f"differ: {differences(newest('one'), newest('two'))}")
c.check(differences(newest("one"), newest("whole")), "the comparison sees no difference between other runs")

# What backward computes again has the same bits.
for recompute in "states", "layer":
    train(recompute, *one, "--recompute", recompute)
    c.check(not differences(newest("one"), newest(recompute), skip=["config"]), f"--recompute {recompute}: other bits")

# SIGTERM: finishes the step, writes a checkpoint, exits with 0.
process = subprocess.Popen([gdn, "train", "--data", "data.h5", "--out", "three", *FLAGS, "--steps", "100000",
                            "--checkpoint-every", "0"], stdout=subprocess.PIPE, text=True)
while not process.stdout.readline().startswith("step"):
    pass
process.send_signal(signal.SIGTERM)
rest = process.communicate(timeout=60)[0]
c.check(process.returncode == 0 and "--resume continues" in rest, f"exit {process.returncode}: {rest}")
c.check(newest("three"), "no checkpoint")

# On a terminal one line is updated in place and fits 80 columns; log.txt has plain lines.
master, slave = pty.openpty()
process = subprocess.Popen([gdn, "train", "--data", "data.h5", "--out", "four", *FLAGS, "--steps", "12"], stdout=slave)
os.close(slave)
seen = b""
while True:
    try:
        seen += os.read(master, 4096)
    except OSError:  # the other end is closed
        break
c.check(process.wait() == 0, "run on a terminal")
updates = [u for u in seen.decode().split("\r\x1b[K") if u.startswith("step")]
c.check(len(updates) >= 12 and all(len(u.split("\r\n")[0]) < 80 for u in updates), f"updates: {updates}")
with open("four/log.txt") as file:
    lines = file.read().splitlines()
c.check([line.split()[1] for line in lines if "tokens/s" in line] == ["1/12", "5/12", "10/12", "12/12"], f"{lines}")

# Resuming what is finished changes nothing; a folder in use is not overwritten; other settings are refused.
text = train("one", *one, "--resume")
c.check("done: steps=20" in text, text)
text = train("one", *one, code=2)
c.check("already holds a run" in text and text.count("\n") == 1, text)
text = train("one", *one, "--resume", "--seed", "9", code=2)
c.check("[train] seed: expected 1" in text and text.count("\n") == 1, text)
text = train("one", *one, "--resume", "--width", "64", code=2)
c.check("[model] width: expected 32" in text, text)

# Eight times the context, from the weights of the first run; evaluation sees the same tokens.
long = ["--context", "256", "--batch-tokens", "256", "--steps", "10", "--init-from", "whole", "--warmup", "0"]
text = train("long", *long)
c.check("after 300 updates" in text and "500 held-out tokens" in text, text)
c.check(heldout(text) < unigram - 0.3, f"long context: held-out loss {heldout(text)}")
text = train("other", *long, "--mlp", "64", code=2)
c.check("[model] mlp: expected 48" in text, text)

# A loss that is not finite: exit 4, one line, and the last checkpoint still opens.
text = train("nan", "--steps", "50", "--lr", "1e30", "--warmup", "20", "--clip", "0", "--weight-decay", "0",
             "--checkpoint-every", "1", code=4)
c.check(re.search(r"step \d+: .*expected a finite number, found -?(nan|inf)", text) and text.count("\n") == 1, text)
c.check(not differences(newest("nan"), newest("nan")), "checkpoint")
c.finish()
