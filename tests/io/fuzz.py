#!/usr/bin/env python3
"""Damaged and wrong files of every kind through the command that reads that kind.

    fuzz.py PROBE [GDN] [--every N]      N: only one variant in N

Every variant is really invalid: truncated, not HDF5, of the wrong format, shape, type or values, or
with a byte changed that a checksum covers. Each must end with exit 2, one line on stderr and no
file written. All kinds go through the probe and, with GDN, through the command that reads them; so
do files of a training run and configurations. A last part changes random bytes of files without
checksums, which may go unnoticed: there only crashes, odd exits and lost or extra lines count.
Deterministic.
"""
import argparse
import collections
import itertools
import random
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

try:
    import h5py
    import numpy as np
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

import kinds

RANDOM_DAMAGES = 40  # a kind

# The valid file of each kind, made by main().
GOOD = {}

# A run that takes no time. "@" stands for the file in question, everywhere.
TRAIN = """train --out run --width 8 --layers 1 --key-heads 1 --value-heads 1 --key-dim 4
    --value-dim 4 --mlp 8 --steps 2 --warmup 1 --context 16 --batch-tokens 16 --eval-tokens 16
    --threads 1""".split()
CONFIG = "[model]\nwidth = 8\n\n[train]\nlr = 0.01 ; fast\nsteps = 2\n\n[sample]\ntokens = 0\n"

# What a reader may do without.
OPTIONAL = {"train_checkpoint": set(), "train_log": {"config"}, "case": {"scale", "do", "dht", "initial_state"}, "result": {"final_state"},
            "layer_case": {"dout", "cu_seqlens", "norm_eps"}, "layer_result": set(),
            "dataset": set(), "checkpoint": set(), "log": {"config"}}
# Dimensions that nothing else in the file fixes.
FREE = {("layer_case", "cu_seqlens", 0), ("layer_case", "conv1d.weight", 2),
        ("layer_result", "dconv1d.weight", 2), ("dataset", "train", 0), ("dataset", "heldout", 0),
        ("log", "values", 0), ("log", "config", 0),
        ("train_log", "values", 0), ("train_log", "config", 0)}
# Kinds whose floating-point values must be finite.
FINITE = {"case", "result", "layer_case", "layer_result"}


def contents(kind):
    """Attributes and datasets of the valid file."""
    tensors = {}
    with h5py.File(GOOD[kind]) as f:
        f.visititems(lambda name, x: tensors.update({name: x[()]})
                     if isinstance(x, h5py.Dataset) else None)
        return {k: v for k, v in f.attrs.items() if k not in ("format", "version")}, tensors


def with_edit(kind, edit):
    """A writer of the valid file with edit(file) applied to it."""
    def write(path):
        shutil.copy(GOOD[kind], path)
        with h5py.File(path, "r+") as f:
            edit(f)
    return write


def with_value(kind, name, value):
    def edit(f):
        del f[name]
        f[name] = value
    return with_edit(kind, edit)


def with_attribute(kind, name, value):
    def edit(f):
        f.attrs.pop(name, None)
        if value is not None:
            f.attrs[name] = value
    return with_edit(kind, edit)


def wrong_attributes(kind):
    attributes = contents(kind)[0]
    other = "gdn-log" if not kind.endswith("log") else "gdn-case"
    wrong = {"format": [None, "", other, "gdn-case\n", b"\xff\xfe", 1, "x" * 5000, ["a", "b"]],
             "version": [None, 0, 2, -1, "1", 1.0, [1, 1], 2**63]}
    for name, value in attributes.items():
        missing = [] if name in OPTIONAL[kind] else [None]
        if isinstance(value, str):
            wrong[name] = missing + [7, "x" * 5000, ["a", "b"]]
        elif isinstance(value, (float, np.floating)):
            wrong[name] = missing + ["1", np.nan, np.inf, [1.0, 2.0], 1]
        elif np.ndim(value) == 0:
            wrong[name] = missing + ["1", 1.5, -1, 2**40 if name != "step" else [1, 2], [1, 2]]
        else:
            wrong[name] = missing + ["step", 3, np.array([b"step"]), np.array([b"a", b""]),
                                     np.array([b"x" * 100, b"y"])]
    if kind.endswith("result"):
        wrong["dtype"] += ["int8"]
    if kind == "dataset":
        wrong["tokenizer"] += ["words", "bpe"]
    for name, values in wrong.items():
        for value in values:
            yield f"attribute {name} = {str(value)[:20]!r}", with_attribute(kind, name, value)


def wrong_values(kind, name, value):
    """Variants of one dataset: shapes, types, and numbers that are none."""
    for axis in range(value.ndim):
        if (kind, name, axis) not in FREE and value.size:
            longer = np.concatenate([value, value.take([0], axis)], axis)
            yield f"{name} longer in {axis}", with_value(kind, name, longer)
            yield f"{name} shorter in {axis}", with_value(kind, name,
                                                          np.delete(value, 0, axis))
    yield f"{name} of rank + 1", with_value(kind, name, value[None])
    if value.ndim:
        if value.size and not name.endswith("conv1d.weight"):
            yield f"{name} of rank - 1", with_value(kind, name, value[0])
        yield f"{name} scalar", with_value(kind, name, value.dtype.type(0))
    floats = value.dtype.kind == "f"
    types = ["S4", "c8", "f2", "?"] + (["i4", "u8"] if floats else ["f4", "f8"])
    for dtype in types:
        with np.errstate(invalid="ignore", over="ignore"):
            yield f"{name} as {dtype}", with_value(kind, name, value.astype(dtype))
    if kind in FINITE and floats:
        for number in (np.nan, np.inf, -np.inf):
            bad = value.copy()
            bad.flat[bad.size // 2] = number
            yield f"{name} with {number}", with_value(kind, name, bad)


def odd_storage(kind, name, value):
    """Variants of one dataset that h5py opens without complaint."""
    def special(make):
        def edit(f):
            del f[name]
            make(f)
        return with_edit(kind, edit)

    shape = value.shape
    huge = (2**50,) + shape[1:] if value.ndim else (2**50,)
    chunks = dict(chunks=(1,) * len(huge))
    yield f"{name} a group", special(lambda f: f.create_group(name))
    yield f"{name} a dangling link", special(
        lambda f: f.__setitem__(name, h5py.SoftLink("/nowhere")))
    yield f"{name} without shape", special(
        lambda f: f.create_dataset(name, data=h5py.Empty(value.dtype)))
    yield f"{name} of 2^50 rows", special(
        lambda f: f.create_dataset(name, huge, value.dtype, **chunks))
    if value.size:
        yield f"{name} never written", special(lambda f: f.create_dataset(name, shape, value.dtype))
        layout = h5py.VirtualLayout(shape, value.dtype)
        yield f"{name} virtual", special(lambda f: f.create_virtual_dataset(name, layout))
        if value.ndim:
            yield f"{name} external", special(lambda f: f.create_dataset(
                name, shape, value.dtype, external=[("/dev/zero", 0, value.nbytes)]))


def wrong_datasets(kind):
    for name, value in contents(kind)[1].items():
        value = np.asarray(value)
        if kind == "train_checkpoint" and name.split("/")[0] not in ("model", "adam_m", "adam_v"):
            continue  # a new run from a checkpoint does not read the rest
        if name not in OPTIONAL[kind]:
            yield f"no {name}", with_edit(kind, lambda f, name=name: f.__delitem__(name))
        yield from wrong_values(kind, name, value)
        yield from odd_storage(kind, name, value)


def wrong_rules(kind):
    """What shapes and types do not show."""
    if kind in ("case", "layer_case"):
        T = 9 if kind == "case" else 7
        for cu in ([1, 3, T], [0, 5, 4], [0, -1, T], [0, 3, T + 1], [0, 2**62, T], [0], []):
            if kind == "layer_case" or len(cu) == 3:
                yield f"cu_seqlens {cu}", with_value(kind, "cu_seqlens", np.array(cu, np.int64))
    if kind == "case":
        g = kinds.case()[1]["g"]
        for value in (1e-30, 1.0, 3e38):
            bad = g.copy()
            bad[-1, -1] = value
            yield f"g with {value}", with_value(kind, "g", bad)

        def three_heads(f):
            q = kinds.case()[1]["q"]
            for name in ("q", "k"):
                del f[name]
                f[name] = np.repeat(q, 3, axis=1)
        yield "Hv no multiple of Hk", with_edit(kind, three_heads)
    if kind == "layer_case":
        yield "norm_eps < 0", with_attribute(kind, "norm_eps", -1e-6)


def not_hdf5(kind):
    def content(data):
        return lambda path: path.write_bytes(data)

    yield "empty", content(b"")
    yield "text", content(b"[model]\nwidth = 64\n" * 50)
    yield "signature alone", content(b"\x89HDF\r\n\x1a\n")
    yield "zeros", content(bytes(100000))
    yield "a directory", lambda path: path.mkdir()
    yield "no file", lambda path: None
    yield "a device", lambda path: path.symlink_to("/dev/zero")
    yield "HDF5 without anything", lambda path: h5py.File(path, "w").close()
    other = "log" if not kind.endswith("log") else "case"
    yield f"a {other}", lambda path: kinds.write(path, other, *kinds.KINDS[other]())


def truncations(data):
    size = len(data)
    for length in sorted({7, 8, 9, 40, 48, 95, 96, 512, size // 8, size // 4, size // 2,
                          3 * size // 4, size - 100, size - 8, size - 1} & set(range(1, size))):
        yield f"cut to {length} of {size}", lambda path, n=length: path.write_bytes(data[:n])


def covered_bytes(path):
    """Offsets that checksums of the current format cover: the superblock, object headers, chunks
    with Fletcher32 (a few of each, and the checksums themselves)."""
    data = path.read_bytes()
    for offset in range(48):
        yield "superblock", offset
    start = data.find(b"OHDR")
    while start >= 0:
        flags = data[start + 5]
        first = start + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        end = first + width + int.from_bytes(data[first:first + width], "little") + 4
        for offset in {start, start + 4, first, (first + end) // 2, end - 5, end - 1}:
            yield "object header", offset
        start = data.find(b"OHDR", start + 1)
    offsets = []

    def visit(name, x):
        if isinstance(x, h5py.Dataset) and x.chunks and x.size:
            for i in range(x.id.get_num_chunks()):
                chunk = x.id.get_chunk_info(i)
                offsets.extend((name, chunk.byte_offset + at)
                               for at in (0, chunk.size // 2, chunk.size - 1))
    with h5py.File(path) as f:
        f.visititems(visit)
    yield from offsets


def flips(path):
    data = path.read_bytes()
    for what, offset in covered_bytes(path):
        def write(to, offset=offset):
            bad = bytearray(data)
            bad[offset] ^= 0x10
            to.write_bytes(bad)
        yield f"{what}: byte {offset} changed", write


def wrong_configs():
    """Configuration files that are none."""
    lines = CONFIG.splitlines()
    texts = {"unknown key": CONFIG + "[model]\ndepth = 3\n",
             "unknown section": CONFIG + "[x]\na = 1\n",
             "key of another section": CONFIG + "[model]\nlr = 1\n",
             "key twice": CONFIG + "[model]\nwidth = 8\n",
             "before any section": "width = 8\n" + CONFIG, "no value": CONFIG + "[train]\nseed\n",
             "open section": CONFIG + "[train\n", "bytes": "\x01\x02\x03 = \x04\n"}
    for value in ("", "x", "8x", "0", "-8", "1e3", "8.5", "9" * 20, "nan", "0x10", "8 8"):
        texts[f"width = {value!r}"] = "[model]\nwidth = " + value + "\n"
    for value in ("", "x", "nan", "inf", "-1", "1e400", "1e31", "0.01.0", "1,5"):
        texts[f"lr = {value!r}"] = "[train]\nlr = " + value + "\n"
    for value in ("2", "-1", "maybe", ""):
        texts[f"tied = {value!r}"] = "[model]\ntied = " + value + "\n"
    texts.update({"min_lr": "[train]\nmin_lr = 1\n", "steps": "[train]\nsteps = 0\n",
                  "temperature": "[sample]\ntemperature = -1\n"})
    for i, line in enumerate(lines):
        if "=" in line:
            texts[f"line {i + 1} without ="] = "\n".join(
                lines[:i] + [line.replace("=", " ")] + lines[i + 1:])
    for label, text in texts.items():
        yield label, lambda path, text=text: path.write_bytes(text.encode())
    yield "no file", lambda path: None
    yield "a directory", lambda path: path.mkdir()


def random_damage(kind):
    data, rng = GOOD[kind].read_bytes(), random.Random(kind)
    for i in range(RANDOM_DAMAGES):
        bad = bytearray(data)
        for _ in range(rng.choice([1, 2, 4])):
            bad[rng.randrange(len(bad))] = rng.choice([0, 255, rng.randrange(256)])
        yield f"random damage {i}", lambda path, bad=bytes(bad): path.write_bytes(bad)


class Fuzz:
    def __init__(self, probe, gdn, directory):
        self.probe, self.gdn, self.directory = probe, gdn, directory
        self.passed, self.failures, self.serial = collections.Counter(), [], 0

    def commands(self, kind):
        """Ways to read a file of this kind that take the valid one."""
        train = [self.gdn, *TRAIN, "--data", GOOD["dataset"]]
        ways = [[self.probe, "read", kind.removeprefix("train_"), "@"]]
        ways += {
            "case": [[self.gdn, "run", "@", "-o", "OUT"]],
            "layer_case": [[self.gdn, "run", "@", "-o", "OUT"]],
            "result": [[self.gdn, "compare", "@", GOOD[kind]],
                       [self.gdn, "compare", GOOD[kind], "@"]],
            "layer_result": [[self.gdn, "compare", "@", GOOD[kind]]],
            "dataset": [[self.gdn, *TRAIN, "--data", "@"]],
            "train_checkpoint": [train + ["--init-from", "@"]],
            "train_log": [[self.gdn, "plot", "@", "-o", "OUT.svg"]],
            "config": [train + ["--config", "@"]],
        }.get(kind, [])
        if kind.startswith("train_") or kind == "config":
            ways = ways[1:]
        taken = []
        for way in ways if self.gdn else ways[:1]:
            code, lines, _ = self.run(way, GOOD[kind], self.directory / "valid")
            if kind == "config" and code == 2 and "no INI parser" in lines[0]:
                continue  # a build without it
            if code != 0:
                raise SystemExit(f"{kind}: the valid file is refused: {way} {lines}")
            taken.append(way)
        return taken

    def run(self, way, path, work):
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        command = [str(path) if word == "@" else str(word) for word in way]
        try:
            done = subprocess.run(command, cwd=work, capture_output=True, timeout=100)
        except subprocess.TimeoutExpired:
            return "timeout", [], []
        lines = done.stderr.decode(errors="replace").splitlines()
        return done.returncode, lines, list(work.iterdir())

    def try_variant(self, kind, label, write, ways, unnoticed=False):
        """unnoticed: the damage may be one that nothing shows."""
        self.serial += 1
        path = self.directory / f"{kind}-{self.serial}.h5"
        write(path)

        def attempt():
            for i, way in enumerate(ways):
                code, lines, files = self.run(way, path, path.with_suffix(f".{i}"))
                shutil.rmtree(path.with_suffix(f".{i}"))
                fine = code == 2 and len(lines) == 1 and not files
                unseen = code in ((0, 1) if way[1] == "compare" else (0,)) and not lines
                if not fine and not (unnoticed and unseen):
                    self.failures.append(f"{kind}, {label}: {Path(way[0]).name} {way[1]}: exit "
                                         f"{code}, {len(lines)} lines on stderr, files "
                                         f"{[f.name for f in files]}: {' | '.join(lines)[:200]}")
                else:
                    self.passed[(kind, "random damage" if unnoticed else "invalid")] += 1
            if path.is_dir():
                path.rmdir()
            else:
                path.unlink(missing_ok=True)
        return attempt


def make_own(probe, kind, directory):
    """The valid file of a kind, by h5py, and one as gdn_io writes it, which is returned."""
    GOOD[kind], own = directory / f"good-{kind}.h5", directory / f"own-{kind}.h5"
    kinds.write(GOOD[kind], kind, *kinds.KINDS[kind]())
    if kind == "checkpoint":
        command = ["make", kind, directory / "checkpoints"]
        own = directory / "checkpoints" / "step-000000000007.h5"
    elif kind == "dataset":
        (directory / "text.txt").write_bytes(kinds.TEXT)
        command = ["make", kind, own, directory / "text.txt"]
    else:
        command = ["copy", kind, GOOD[kind], own]
    subprocess.run([probe, *map(str, command)], check=True, stdout=subprocess.DEVNULL)
    return own


def make_run(gdn, directory):
    """Files of a small training run."""
    subprocess.run([gdn, *TRAIN, "--data", str(GOOD["dataset"])], cwd=directory, check=True,
                   stdout=subprocess.DEVNULL)
    GOOD["train_checkpoint"] = directory / "run" / "step-000000000002.h5"
    GOOD["train_log"] = directory / "run" / "log.h5"
    GOOD["config"] = directory / "run.ini"
    GOOD["config"].write_text(CONFIG)
    return {kind: GOOD[kind] for kind in ("train_checkpoint", "train_log", "config")}


def variants(kind, own):
    """Invalid ones, then those whose damage may not show."""
    if kind == "config":
        return wrong_configs(), []
    foreign = [] if own == GOOD[kind] else [truncations(GOOD[kind].read_bytes())]
    return itertools.chain(wrong_attributes(kind), wrong_datasets(kind), wrong_rules(kind),
                           not_hdf5(kind), *foreign, truncations(own.read_bytes()),
                           flips(own)), random_damage(kind)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("probe", type=Path)
    parser.add_argument("gdn", type=Path, nargs="?")
    parser.add_argument("--every", type=int, default=1)
    arguments = parser.parse_args()
    probe = str(arguments.probe.resolve())
    gdn = str(arguments.gdn.resolve()) if arguments.gdn else None
    with tempfile.TemporaryDirectory() as directory, ThreadPoolExecutor(2) as pool:
        fuzz = Fuzz(probe, gdn, Path(directory))
        owns = {kind: make_own(probe, kind, fuzz.directory) for kind in kinds.KINDS}
        if gdn:
            owns.update(make_run(gdn, fuzz.directory))
        for kind, own in owns.items():
            ways = fuzz.commands(kind)
            print(kind + ": through " + ", ".join(
                f"{Path(way[0]).name} {way[1]}" for way in ways), flush=True)
            jobs = [pool.submit(fuzz.try_variant(kind, label, write, ways, unnoticed))
                    for unnoticed, group in enumerate(variants(kind, own))
                    for label, write in itertools.islice(group, 0, None, arguments.every)]
            for job in jobs:
                job.result()
    for (kind, what), count in sorted(fuzz.passed.items()):
        print(f"  {kind:16} {what:14} {count}")
    for line in fuzz.failures:
        print(line, file=sys.stderr)
    invalid = sum(n for (_, what), n in fuzz.passed.items() if what == "invalid")
    total = sum(fuzz.passed.values())
    print(f"{invalid} invalid files refused, {total - invalid} random damages survived")
    print(f"{total} passed, {len(fuzz.failures)} failed")
    return 1 if fuzz.failures or not invalid else 0


if __name__ == "__main__":
    sys.exit(main())
