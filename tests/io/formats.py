#!/usr/bin/env python3
"""h5py reads what gdn_io writes, and gdn_io reads what h5py writes.

    formats.py PROBE
"""
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import h5py
    import numpy as np
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

import kinds

passed, failed = 0, 0


def check(condition, message):
    global passed, failed
    if condition:
        passed += 1
    else:
        failed += 1
        print(f"failed: {message}", file=sys.stderr)


def probe(*arguments):
    done = subprocess.run([sys.argv[1], *map(str, arguments)], capture_output=True, text=True)
    check(done.returncode == 0, f"probe {arguments}: exit {done.returncode}: {done.stderr}")
    return done.stdout


def compare(path, kind, attributes, tensors):
    """The file at path holds just these."""
    with h5py.File(path) as f:
        check(f.attrs["format"] == "gdn-" + kind.replace("_", "-") and f.attrs["version"] == 1,
              f"{path}: format")
        for name, want in attributes.items():
            check(np.array_equal(f.attrs[name], want), f"{path}: attribute {name}")
        found = []
        f.visititems(lambda name, x: found.append(name) if isinstance(x, h5py.Dataset) else None)
        check(set(found) == set(tensors), f"{path}: datasets {found}")
        for name, want in tensors.items():
            same = f[name].shape == np.shape(want) and np.array_equal(
                f[name][()], want, equal_nan=np.asarray(want).dtype.kind == "f")
            check(same, f"{path}: dataset {name}")
            check(f[name].size == 0 or f[name].ndim == 0 or f[name].fletcher32,
                  f"{path}: dataset {name} has no checksum")


def copies(directory):
    """Through gdn_io and back: every kind that has a plain struct, in several ways of storage."""
    stores = {"plain": {}, "latest": dict(libver="latest"),
              "packed": dict(create=dict(compression="gzip", shuffle=True, chunks=True))}
    for kind in ("case", "result", "layer_case", "layer_result", "log"):
        for naming in ("qwen3.5", "qwen3-next") if kind.startswith("layer") else (None,):
            attributes, tensors = kinds.KINDS[kind](*([naming] if naming else []))
            for store, how in stores.items():
                source, copy = directory / "source.h5", directory / "copy.h5"
                kinds.write(source, kind, attributes, tensors, **how)
                probe("copy", kind, source, copy)
                compare(copy, kind, attributes, tensors)


def big_endian(directory):
    attributes, tensors = kinds.case()
    swapped = {name: x.astype(x.dtype.newbyteorder(">")) for name, x in tensors.items()}
    kinds.write(directory / "source.h5", "case", attributes, swapped)
    probe("copy", "case", directory / "source.h5", directory / "copy.h5")
    compare(directory / "copy.h5", "case", attributes, tensors)


def storage_types(directory):
    """float32 where it is enough, float64 where it is not."""
    for value, want in ((0.5, np.float32), (0.1, np.float64)):
        attributes, tensors = kinds.case()
        tensors["beta"] = np.full_like(tensors["beta"], value)
        kinds.write(directory / "source.h5", "case", attributes, tensors)
        probe("copy", "case", directory / "source.h5", directory / "copy.h5")
        with h5py.File(directory / "copy.h5") as f:
            check(all(f[n].dtype == want for n in ("q", "beta")), f"case of {value}")


def conv_without_middle(directory):
    attributes, tensors = kinds.layer_case()
    flat = dict(tensors, **{"conv1d.weight": tensors["conv1d.weight"][:, 0]})
    kinds.write(directory / "source.h5", "layer_case", attributes, flat)
    probe("copy", "layer_case", directory / "source.h5", directory / "copy.h5")
    compare(directory / "copy.h5", "layer_case", attributes, tensors)


def namings(directory):
    """Both namings hold the same layer: plain rows in one, grouped by k-head in the other."""
    names = ("qwen3.5", "qwen3-next")
    for source, copy in (names, names[::-1]):
        kinds.write(directory / "source.h5", "layer_case", *kinds.layer_case(source))
        probe("rename", "layer_case", directory / "source.h5", directory / "copy.h5")
        compare(directory / "copy.h5", "layer_case", *kinds.layer_case(copy))


def made_files(directory):
    probe("make", "log", directory / "log.h5")
    compare(directory / "log.h5", "log", *kinds.log())
    probe("make", "checkpoint", directory / "checkpoints")
    path = directory / "checkpoints" / "step-000000000007.h5"
    compare(path, "checkpoint", *kinds.checkpoint())
    text = directory / "text.txt"
    text.write_bytes(kinds.TEXT)
    probe("make", "dataset", directory / "dataset.h5", text)
    heldout = int(len(kinds.TEXT) * 0.05)
    tokens = np.frombuffer(kinds.TEXT, np.uint8)
    compare(directory / "dataset.h5", "dataset", {
        "tokenizer": "byte", "vocab": 256, "source_name": "text.txt",
        "source_bytes": len(kinds.TEXT), "heldout_fraction": 0.05,
        "source_sha256": hashlib.sha256(kinds.TEXT).hexdigest()},
        {"train": tokens[:-heldout], "heldout": tokens[-heldout:]})
    for kind in ("dataset", "checkpoint", "log"):
        kinds.write(directory / "foreign.h5", kind, *kinds.KINDS[kind]())
        probe("read", kind, directory / "foreign.h5")


def entropies(directory):
    """Unigram with add-one smoothing; bigram after Witten and Bell."""
    kinds.write(directory / "dataset.h5", "dataset", *kinds.dataset())
    train, heldout = (bytes(x) for x in kinds.dataset()[1].values())
    follows = train[1:]
    unigram, bigram, last = 0.0, 0.0, train[-1]
    for w in heldout:
        p = (train.count(w) + 1) / (len(train) + 256)
        after = [b for a, b in zip(train, follows) if a == last]
        kinds_after = len(set(after))
        unigram -= np.log(p)
        if after:
            p = (after.count(w) + kinds_after * p) / (len(after) + kinds_after)
        bigram -= np.log(p)
        last = w
    printed = probe("read", "dataset", directory / "dataset.h5").split(", ")
    check(abs(float(printed[2]) - unigram / len(heldout)) < 1e-5, f"unigram {printed}")
    check(abs(float(printed[3]) - bigram / len(heldout)) < 1e-5, f"bigram {printed}")


def main():
    with tempfile.TemporaryDirectory() as directory:
        for test in (copies, big_endian, storage_types, conv_without_middle, namings, made_files,
                     entropies):
            test(Path(directory))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
