"""Bad arguments and files: exit 2, one line that says what was expected, nothing written."""
import os
import re

from support import FLAGS, Checks, arguments, make_data, run

gdn = arguments()
c = Checks()
make_data(gdn)
with open("bad.ini", "w") as file:
    file.write("[train]\nsteps = many\n")
with open("empty.txt", "w"):
    pass
with open("junk.h5", "w") as file:
    file.write("not HDF5")
before = sorted(os.listdir("."))


def refuse(words, *command):
    text = run(gdn, *command, code=2)
    c.check(words in text and text.count("\n") == 1, f"{' '.join(command)}: expected '{words}', found: {text}")


data = ["train", "--data", "data.h5", "--out", "out"]
refuse("--data: expected a dataset", "train", "--out", "out")
refuse("--out: expected a folder", "train", "--data", "data.h5")
refuse("unknown option '--fast'", *data, "--fast")
refuse("--steps: expected a value", *data, "--steps")
refuse("--steps: expected an integer from 1", *data, "--steps", "none")
refuse("--stop-at: expected a step", *data, "--stop-at", "x")
refuse("bad.ini:2: [train] steps: expected an integer", *data, "--config", "bad.ini")
refuse("multiple of context", *data, "--context", "100", "--batch-tokens", "150")
refuse("more than context (100000) tokens", *data, "--context", "100000", "--batch-tokens", "100000")
refuse("nowhere.h5", "train", "--data", "nowhere.h5", "--out", "out")
refuse("junk.h5", "train", "--data", "junk.h5", "--out", "out")
refuse("junk.h5", *data, *FLAGS, "--init-from", "junk.h5")
refuse("expected a text file", "data", "-o", "x.h5")
refuse("-o: expected", "data", "text.txt")
refuse("--tokenizer: expected byte or bpe", "data", "text.txt", "-o", "x.h5", "--tokenizer", "word")
refuse("--heldout: expected a number", "data", "text.txt", "-o", "x.h5", "--heldout", "2")
refuse("--vocab: expected", "data", "text.txt", "-o", "x.h5", "--vocab", "300")
refuse("empty.txt", "data", "empty.txt", "-o", "x.h5")
refuse("expected a run or a report", "plot", "-o", "x.svg")
refuse("-o: expected", "plot", "data.h5")
refuse("data.h5", "plot", "data.h5", "-o", "x.svg")
refuse("--backend: expected auto, cpu or cuda, found 'gpu'", *data, "--backend", "gpu")
refuse("--dtype: expected auto, fp32 or bf16, found 'fp16'", *data, "--dtype", "fp16")
refuse("[train] dtype: expected fp32 on the cpu backend, found bf16", *data, "--backend", "cpu", "--dtype", "bf16")
refuse("--recompute: expected none, states or layer, found 'all'", *data, "--recompute", "all")
refuse("[train] passes: expected a divisor of the batch's sequences (8), found 3", *data, "--passes", "3")
with open("backend.ini", "w") as file:
    file.write("[train]\nbackend = metal\n")
refuse("backend.ini:2: [train] backend: expected auto, cpu or cuda, found 'metal'", *data, "--config", "backend.ini")
os.remove("backend.ini")
# cuda where it is not: exit 3. auto is then the CPU, and bf16 without --backend cuda a wrong dtype.
if re.search(r"^devices +0$", run(gdn, "info"), re.M):
    text = run(gdn, *data, "--backend", "cuda", code=3)
    c.check("backend cuda" in text and text.count("\n") == 1, f"cuda without a device: {text}")
    refuse("expected fp32 on the cpu backend (no CUDA device here), found bf16", *data, "--dtype", "bf16")
else:
    print("skipped: cuda without a device, as this machine has one")
c.check(sorted(os.listdir(".")) == before, f"something was written: {sorted(os.listdir('.'))}")
for command in "train", "data", "plot":
    c.check("example:" in run(gdn, command, "--help"), f"{command} --help has no example")
c.finish()
