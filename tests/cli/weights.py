#!/usr/bin/env python3
"""gdn import and export: round trips, both namings, shards, every refusal, and a run that starts from imported layers.

    weights.py GDN FOLDER

The models are made here, by a small writer of the published format (hf_models.py, safetensors_file.py), with the tensor
names and layouts of Hugging Face's modules; tests/layer/hf_weights.py has models that transformers itself saves.
"""
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

try:
    import h5py
    import numpy as np
except ImportError as error:
    print(f"skipped: {error}")
    sys.exit(77)

import safetensors_file as st
from bad_headers import HEADERS, edited
from hf_models import (A_LOG, CONFIG, CONV, EMBED, PLAIN, PREFIX, VECTORS, bare, cast, kinds, layer, model,
                       only_layers, write_model)

GDN = str(Path(sys.argv[1]).resolve())
passed = failed = 0


def check(condition, message):
    global passed, failed
    if condition:
        passed += 1
    else:
        failed += 1
        print(f"FAILED: {message}", file=sys.stderr)


def gdn(*args):
    return subprocess.run([GDN, *map(str, args)], capture_output=True, text=True, timeout=120)


def succeeds(*args):
    r = gdn(*args)
    check(r.returncode == 0 and r.stderr == "", f"{args}: exit {r.returncode}, {r.stderr!r}")
    return r.stdout


def files():
    return {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in Path().rglob("*")}


def refuses(args, *words):
    """Exit 2, one line with these words on stderr, no file made or changed."""
    before = files()
    r = gdn(*args)
    check(r.returncode == 2, f"{args}, {words}: exit {r.returncode}: {r.stderr!r}")
    check(r.stderr.count("\n") == 1 and r.stderr.startswith("gdn"), f"{args}: stderr {r.stderr!r}")
    for word in words:
        check(word in r.stderr, f"{args}: no {word!r} in {r.stderr!r}")
    check(files() == before, f"{args}: files changed")


def blocks(path):
    """The weights of every block of a checkpoint, by number and bare name."""
    out = {}
    with h5py.File(path) as f:
        check(f.attrs["format"] == "gdn-checkpoint" and f.attrs["version"] == 1, f"{path}: format")
        for name, x in f["model"].items():
            number, part, bare_name = name.removeprefix("blocks.").split(".")
            check(part == "gdn", f"{path}: {name}")
            out.setdefault(int(number), {})[bare_name] = x[()]
    return out


def contents(path):
    """Everything of a checkpoint, as bytes; the file itself has times in it."""
    out = {}
    with h5py.File(path) as f:
        f.visititems(lambda name, x: out.update({name: (x.dtype.str, x.shape, x[()].tobytes())})
                     if isinstance(x, h5py.Dataset) else None)
    return out


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def check_block(block, naming_3_5, label):
    """A block against the layer's weights in Qwen3.5's naming, as float32."""
    check(set(block) == set(PLAIN), f"{label}: {set(block)}")
    for name, values in naming_3_5.items():
        want = st.to_float(values)
        want = want[:, 0] if bare(name) == "conv1d" else want
        check(same_bits(block[bare(name)], want), f"{label}: {name}")


def test_round_trips():
    """Every naming and dtype: the blocks hold the very values, and the export is the file that holds just the layers."""
    for naming in ("qwen3.5", "qwen3-next"):
        for how in ("fp32", "bf16", "fp16", "mixed"):
            tensors = model(naming, how)
            folder = write_model("model", tensors)
            out = succeeds("import", folder, "-o", "in.h5", "--layer", 0, "--layer", 1, "--layer", 3)
            check(f"layers=3 naming={naming} width=10 key_heads=2" in out, out)
            found = blocks("in.h5")
            check(set(found) == {0, 1, 2}, f"blocks {set(found)}")
            for block, number in enumerate((0, 1, 3)):
                want = cast(layer("qwen3.5", number), how)  # bf16 rows are the same in either order
                check_block(found[block], want, f"{naming} {how} layer {number}")
            succeeds("export", "in.h5", "-o", "back.safetensors")
            st.write(Path("want.safetensors"), only_layers(tensors))
            check(Path("back.safetensors").read_bytes() == Path("want.safetensors").read_bytes(),
                  f"{naming} {how}: the export differs from the original")


def test_namings_equal():
    """The same layer under either naming is the same block; either file can be made from either."""
    for how in ("fp32", "bf16"):
        for naming, short in (("qwen3.5", "a"), ("qwen3-next", "b")):
            write_model(f"model_{short}", model(naming, how))
            succeeds("import", f"model_{short}", "-o", f"{short}.h5", "--layer", 1)
        a, b = blocks("a.h5")[0], blocks("b.h5")[0]
        check(all(same_bits(a[name], b[name]) for name in PLAIN), f"{how}: namings differ")
        succeeds("export", "a.h5", "-o", "next.safetensors", "--naming", "qwen3-next")
        succeeds("export", "b.h5", "-o", "own.safetensors")
        check(Path("next.safetensors").read_bytes() == Path("own.safetensors").read_bytes(), f"{how}: 3.5 to Next")
        succeeds("export", "b.h5", "-o", "plain.safetensors", "--naming", "qwen3.5")
        succeeds("export", "a.h5", "-o", "own.safetensors")
        check(Path("plain.safetensors").read_bytes() == Path("own.safetensors").read_bytes(), f"{how}: Next to 3.5")
    # Groups of one v-head, and a single group.
    for heads in (dict(Hk=4, Hv=4), dict(Hk=1, Hv=4), dict(Hk=1, Hv=1)):
        write_model("model_h", model("qwen3-next", "fp32", (0,), **heads), None)
        succeeds("import", "model_h", "-o", "h.h5", "--layer", 0, "--key-heads", heads["Hk"])
        check_block(blocks("h.h5")[0], layer("qwen3.5", 0, **heads), f"{heads}")


def test_places():
    """One file, its index, a folder with a slash; shards; a model whose text is a part of it; no config.json."""
    tensors = model("qwen3-next")
    write_model("one", tensors)
    succeeds("import", "one", "-o", "one.h5", "--layer", 3)
    want = contents("one.h5")
    write_model("many", tensors, shards=4)
    write_model("unconfigured", tensors, None)
    write_model("seeing", {n.replace("model.", "model.language_model."): t for n, t in tensors.items()},
                {"hidden_size": 99, "text_config": CONFIG, "vision_config": {"hidden_size": 7}})
    for label, args in {"file": ["one/model.safetensors"], "slash": ["one/"], "shards": ["many"],
                        "index": ["many/model.safetensors.index.json"],
                        "key heads": ["unconfigured", "--key-heads", 2],
                        "both": ["one", "--key-heads", 2]}.items():
        succeeds("import", *args, "-o", "other.h5", "--layer", 3)
        check(contents("other.h5") == want, f"{label}: another checkpoint")
    succeeds("import", "seeing", "-o", "seeing.h5", "--layer", 3)
    a, b = blocks("one.h5")[0], blocks("seeing.h5")[0]
    check(all(same_bits(a[name], b[name]) for name in PLAIN), "text_config: other weights")
    succeeds("export", "seeing.h5", "-o", "seeing.safetensors")
    check(all(n.startswith("model.language_model.layers.3.") for n in st.read(Path("seeing.safetensors"))), "prefix")
    # In the folder itself, a bare name has no folder before it.
    r = subprocess.run([GDN, "import", "model.safetensors", "-o", "../bare.h5", "--layer", "3"], cwd="one",
                       capture_output=True, text=True)
    check(r.returncode == 0 and contents("bare.h5") == want, f"a bare name: {r.stderr}")
    # The order of the arguments is that of the blocks.
    succeeds("import", "one", "-o", "order.h5", "--layer", 3, "--layer", 0)
    found = blocks("order.h5")
    check(all(same_bits(found[0][name], a[name]) for name in PLAIN), "order")
    check(not same_bits(found[1]["A_log"], a["A_log"]), "order: the second block")
    # Odd JSON that is JSON: any order of fields, white space, escapes, empty tensors, scalars.
    header = st.header_of(tensors)
    odd = {name: about if name[0] == "_" else dict(reversed(about.items())) for name, about in header.items()}
    odd["empty"] = {"dtype": "U8", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}
    text = json.dumps(odd, indent=3).replace('"model.layers.3', '"model\\u002elayers\\u002E3')
    write_model("odd", tensors)
    Path("odd/model.safetensors").write_bytes(st.pack(text, st.data_of(header, tensors)))
    succeeds("import", "odd", "-o", "other.h5", "--layer", 3)
    check(contents("other.h5") == want, "odd JSON: another checkpoint")


def test_export_options():
    write_model("model", model("qwen3.5", "fp32"))
    succeeds("import", "model", "-o", "in.h5", "--layer", 0, "--layer", 3)
    for dtype, name in (("bf16", "BF16"), ("fp16", "F16")):
        succeeds("export", "in.h5", "-o", "out.safetensors", "--dtype", dtype, "--layer", 7, "--layer", 9, "--prefix",
                 'a"\\b')
        found = st.read(Path("out.safetensors"))
        for number, source in ((7, 0), (9, 3)):
            for tensor, values in layer("qwen3.5", source).items():
                vector = bare(tensor) in VECTORS
                want = values if vector else st.to_float(cast({tensor: values}, dtype)[tensor])
                got, kind = found['a"\\b.' + f"{number}.linear_attn.{tensor}"]
                check(kind == ("F32" if vector else name) and same_bits(got, want), f"{dtype} {number} {tensor}")
        check(len(found) == 18, f"{dtype}: {len(found)} tensors")
    refuses(["export", "in.h5", "-o", "x", "--layer", 1], "in.h5", "2 layers", "found 1")
    refuses(["export", "in.h5", "-o", "x", "--prefix", "p" * 200], "prefix")
    refuses(["export", "in.h5", "-o", "x", "--prefix", "\udcff"], "UTF-8")
    with h5py.File("in.h5", "r+") as f:
        x = f["model/blocks.1.gdn.in_proj_z"][()]
        x[5, 6] = 70000
        f["model/blocks.1.gdn.in_proj_z"][...] = x
    refuses(["export", "in.h5", "-o", "x", "--dtype", "fp16"], "layers.3.linear_attn.in_proj_z", "70000", "[5, 6]")
    succeeds("export", "in.h5", "-o", "big.safetensors", "--dtype", "bf16")


def test_checkpoint_refusals():
    """Exports of files that are no checkpoints, or whose parts do not fit."""
    write_model("model", model("qwen3.5", "mixed"))
    succeeds("import", "model", "-o", "in.h5", "--layer", 0)

    def config(old, new):
        def edit(f):
            text = f["config"][()].tobytes().decode()
            check(old in text, f"no {old!r} in {text}")
            del f["config"]
            f["config"] = np.frombuffer(text.replace(old, new).encode(), np.uint8)
        return edit

    def shorter(f):
        x = f["model/blocks.0.gdn.norm"][()]
        del f["model/blocks.0.gdn.norm"]
        f["model/blocks.0.gdn.norm"] = x[1:]

    def not_finite(f):
        f["model/blocks.0.gdn.norm"][2] = np.inf

    edits = [(lambda f: f.__delitem__("config"), "config"), (config("[model]", "[mode]"), "[model] width"),
             (config("key_heads = 2", "key_heads = 3"), "value_heads"), (config("layers = 1", "layers = 0"), "layers"),
             (config("width = 10", "width = 60000"), "in_proj_qkv"), (config("layers = 1", "layers = 2"), "dtypes1"),
             (config("qwen3.5", "qwen4"), "naming"), (config("fp32 fp32", "fp32 fp64"), "dtypes0", "fp64"),
             (config("prefix0 = ", "prefix0 = " + "p" * 120), "prefix0"), (config("bf16 bf16", "bf16"), "dtypes0"),
             (lambda f: f.__delitem__("model/blocks.0.gdn.A_log"), "blocks.0.gdn.A_log"), (shorter, "blocks.0.gdn.norm"),
             (not_finite, "norm.weight", "finite", "[2]")]
    for edit, *words in edits:
        shutil.copy("in.h5", "bad.h5")
        with h5py.File("bad.h5", "r+") as f:
            edit(f)
        refuses(["export", "bad.h5", "-o", "x"], *words)
    Path("empty.h5").write_bytes(b"")
    Path("none").mkdir()
    for path, word in (("empty.h5", "empty.h5"), ("no.h5", "no.h5"), ("none", "none"), ("model/config.json", "HDF5")):
        refuses(["export", path, "-o", "x"], word)


def test_arguments():
    write_model("model", model("qwen3.5"))
    model_path = "model/model.safetensors"
    for args, words in [
            ([], ["a model"]), (["a", "b"], ["'a' and 'b'"]), ([model_path], ["-o"]), ([model_path, "-o"], ["-o"]),
            ([model_path, "-o", "x"], ["--layer"]), ([model_path, "-o", "x", "--layer"], ["--layer"]),
            ([model_path, "-o", "x", "--layer", "-1"], ["--layer", "'-1'"]),
            ([model_path, "-o", "x", "--layer", "1x"], ["'1x'"]), ([model_path, "-o", "x", "--layer", ""], ["''"]),
            ([model_path, "-o", "x", "--layer", "9" * 30], ["999"]),
            ([model_path, "-o", "x", "--layer", "1", "--key-heads", "0"], ["--key-heads"]),
            ([model_path, "--what"], ["'--what'"])]:
        refuses(["import", *args], *words)
    for args, words in [
            ([], ["a checkpoint"]), (["a", "b"], ["'a' and 'b'"]), (["a"], ["-o"]), (["a", "-o"], ["-o"]),
            (["a", "-o", "x", "--naming", "qwen4"], ["qwen4"]), (["a", "-o", "x", "--dtype", "fp64"], ["fp64"]),
            (["a", "-o", "x", "--layer", "x"], ["'x'"]), (["a", "-o", "", ], ["-o"]), (["a", "-x"], ["'-x'"])]:
        refuses(["export", *args], *words)
    for command in ("import", "export"):
        for flag in ("--help", "-h"):
            out = succeeds(command, flag)
            check(f"usage: gdn {command}" in out and "example:" in out, f"{command} {flag}")
    # A file that cannot be written is another failure than a bad file.
    r = gdn("import", "model", "-o", "no/such/folder.h5", "--layer", 0)
    check(r.returncode == 4 and "no/such/folder.h5" in r.stderr, f"{r.returncode} {r.stderr!r}")


def test_headers():
    write_model("bad", model("qwen3.5"))
    path = Path("bad/model.safetensors")
    for label, edit, *words in HEADERS:
        path.write_bytes(edited(edit))
        refuses(["import", path, "-o", "x", "--layer", 1], "bad/model.safetensors", *words)


def test_files():
    """Whole files: cut short, longer, of another kind, not there."""
    write_model("bad", model("qwen3.5"))
    path = Path("bad/model.safetensors")
    good = path.read_bytes()
    command = ["import", path, "-o", "x", "--layer", 1]
    header = int.from_bytes(good[:8], "little")
    cuts = {0, 1, 7, 8, 9, header, 8 + header - 1, 8 + header, 8 + header + 1, len(good) // 2, len(good) - 1}
    for cut in sorted(cuts):
        path.write_bytes(good[:cut])
        refuses(command, "bad/model.safetensors")
    variants = [(good + b"\0", "bytes of data"), (bytes(len(good)), "an object"), (b"\xff" * 8 + good[8:], "header"),
                ((header + 8).to_bytes(8, "little") + good[8:], ""),
                ((header - 8).to_bytes(8, "little") + good[8:], ""),
                ((2**63).to_bytes(8, "little") + good[8:], "header"),
                ((100000001).to_bytes(8, "little") + good[8:], "at most 100000000"),
                (b"\x89HDF\r\n\x1a\n" + bytes(100), "header"), (b"PK\3\4" + bytes(200), "header")]
    for data, word in variants:
        path.write_bytes(data)
        refuses(command, "bad/model.safetensors", word)
    for values in (np.nan, np.inf, -np.inf):
        tensors = model("qwen3.5", "fp32")
        tensors[CONV][3, 0, 2] = values
        st.write(path, tensors)
        refuses(command, CONV, "finite", "[3, 0, 2]")
    path.unlink()
    refuses(command, "bad/model.safetensors", "cannot open")
    path.mkdir()
    refuses(command, "model.safetensors")
    path.rmdir()
    path.symlink_to("/dev/zero")
    refuses(command, "no regular file")
    path.unlink()
    path.write_bytes(good)
    for number in (2, 4, 1000):
        refuses(["import", path, "-o", "x", "--layer", number], f"layers.{number}.linear_attn.A_log",
                "GDN layers here: 0 1 3")
    for naming in ("qwen3.5", "qwen3-next"):
        for name in layer(naming, 1):
            tensors = model(naming)
            del tensors[PREFIX.format(1) + name]
            st.write(path, tensors)
            refuses(command, PREFIX.format(1).replace("model.", "") + bare(name))
        for name, values in layer(naming, 1).items():
            for axis in range(values.ndim):
                tensors = model(naming)
                full = PREFIX.format(1) + name
                short = np.delete(np.asarray(tensors[full]), 0, axis)
                tensors[full] = short.view(st.Bf16) if isinstance(tensors[full], st.Bf16) else short
                st.write(path, tensors)
                refuses(command, "linear_attn.")
    tensors = {**model("qwen3.5"), **{"other." + n: t for n, t in only_layers(model("qwen3.5")).items()}}
    st.write(path, tensors)
    refuses(command, "expected one, found", "other.model.layers.1")
    for prefix in ("layers.x.linear_attn.", "mylayers.{}.linear_attn.", "{}.linear_attn.", ".linear_attn."):
        few = {prefix.format(1) + name: values for name, values in layer("qwen3.5", 1).items()}
        st.write(path, few)
        refuses(command, "GDN layers here: none")
    st.write(path, model("qwen3.5", prefix="m" * 120 + ".layers.{}.linear_attn."))
    refuses(command, "127 bytes")
    st.write(path, model("qwen3.5", prefix="model .layers.{}.linear_attn."))
    refuses(command, "ASCII")


def test_index():
    def index(edit):
        folder = write_model("many", model("qwen3.5"), shards=3)
        path = folder / "model.safetensors.index.json"
        about = json.loads(path.read_text())
        result = edit(about, folder)
        path.write_text(json.dumps(about) if result is None else result)

    def swap(about, folder):
        about["weight_map"][A_LOG] = about["weight_map"][EMBED] = "model-00003-of-00003.safetensors"
        name = next(n for n, f in about["weight_map"].items() if f.startswith("model-00001") and ".1.linear" in n)
        about["weight_map"][name] = "model-00002-of-00003.safetensors"

    def cut(about, folder):
        for file in folder.glob("model-*"):
            file.write_bytes(file.read_bytes()[:-1])

    edits = [(swap, "as many/model.safetensors.index.json says"), (cut, "of-00003.safetensors"),
             (lambda a, f: a["weight_map"].update({A_LOG: "../x.safetensors"}), "'../x.safetensors'"),
             (lambda a, f: a["weight_map"].update({A_LOG: ""}), "beside this one"),
             (lambda a, f: a["weight_map"].update({A_LOG: 3}), "a string"),
             (lambda a, f: a["weight_map"].update({A_LOG: "no.safetensors"}), "many/no.safetensors", "cannot open"),
             (lambda a, f: a["weight_map"].pop(A_LOG) and None, "A_log"),
             (lambda a, f: a["weight_map"].pop(CONV) and None, CONV),
             (lambda a, f: a.pop("weight_map") and None, "weight_map"),
             (lambda a, f: json.dumps(a)[:-1] + ', "weight_map": {}}', "found two"),
             (lambda a, f: json.dumps(a).replace(f'"{EMBED}"', f'"{A_LOG}"'), "twice"),
             (lambda a, f: json.dumps(a)[:-5], "the end"), (lambda a, f: "", "an object"),
             (lambda a, f: '{"a": ' + "[" * 1000, "nesting")]
    for edit, *words in edits:
        index(edit)
        refuses(["import", "many", "-o", "x", "--layer", 1], "many/", *words)
    write_model("nothing", {}, shards=2)
    refuses(["import", "nothing", "-o", "x", "--layer", 1], "layers.1", "none")
    Path("hollow").mkdir()
    refuses(["import", "hollow", "-o", "x", "--layer", 1], "hollow/model.safetensors")


def test_config():
    def said(**changes):
        return {**CONFIG, **changes}

    for naming in ("qwen3.5", "qwen3-next"):
        variants = [(None, "linear_num_key_heads"), ({}, "linear_num_key_heads"),
                    (said(linear_num_key_heads=0), "0 key heads"), (said(linear_num_key_heads=3), "3 key heads"),
                    (said(linear_num_key_heads=4), "linear_key_head_dim = 8"), (said(hidden_size=11), "hidden_size"),
                    (said(linear_num_key_heads=1), "linear_key_head_dim"),
                    (said(linear_value_head_dim=5), "linear_value_head_dim"),
                    (said(linear_num_value_heads=8), "linear_num_value_heads"),
                    (said(linear_conv_kernel_dim=3), "linear_conv_kernel_dim"),
                    (said(rms_norm_eps=1e-5), "rms_norm_eps"), (said(rms_norm_eps="1e-6"), "a number"),
                    (said(linear_num_key_heads=2.0), "an integer"), ({"text_config": {}}, "linear_num_key_heads"),
                    ({"text_config": said(linear_num_key_heads=4)}, "linear_key_head_dim"), ([], "an object")]
        for config, word in variants:
            folder = write_model("model", model(naming))
            (folder / "config.json").unlink()
            if config is not None:
                (folder / "config.json").write_text(json.dumps(config))
            refuses(["import", "model", "-o", "x", "--layer", 1], "gdn: model", word)
        write_model("model", model(naming))
        refuses(["import", "model", "-o", "x", "--layer", 1, "--key-heads", 4], "linear_num_key_heads")
        folder = write_model("model", model(naming), None)
        (folder / "config.json").write_text(json.dumps(CONFIG)[:-1])
        refuses(["import", "model", "-o", "x", "--layer", 1], "config.json", "the end")
        (folder / "config.json").unlink()
        refuses(["import", "model", "-o", "x", "--layer", 1, "--key-heads", 3], "3 key heads")
        tensors = model(naming, numbers=(0,))
        tensors.update(model(naming, numbers=(1,), V=5))
        write_model("model", tensors, None)
        refuses(["import", "model", "-o", "x", "--key-heads", 2, "--layer", 0, "--layer", 1], "layer 1", "shape")


def test_training():
    """A run starts from imported layers, and its layers go back; what is not imported is as the seed says."""
    flags = ["--width", 10, "--layers", 2, "--key-heads", 2, "--value-heads", 4, "--key-dim", 8, "--value-dim", 6,
             "--mlp", 12, "--context", 16, "--batch-tokens", 32, "--warmup", 0, "--steps", 2, "--eval-tokens", 64,
             "--sample", 0, "--threads", 1, "--data", "data.h5"]
    Path("text.txt").write_bytes(kinds.TEXT * 4)
    succeeds("data", "text.txt", "-o", "data.h5")
    write_model("model", model("qwen3-next", "bf16"))
    succeeds("import", "model", "-o", "in.h5", "--layer", 3, "--layer", 1)
    still = ["--lr", 0, "--min-lr", 0]
    succeeds("train", *flags, *still, "--out", "still", "--init-from", "in.h5")
    succeeds("train", *flags, *still, "--out", "random")
    for block, number in enumerate((3, 1)):
        with h5py.File("still/step-000000000002.h5") as f, h5py.File("random/step-000000000002.h5") as g:
            for name, values in blocks("in.h5")[block].items():
                check(same_bits(f[f"model/blocks.{block}.gdn.{name}"][()], values), f"block {block}: {name}")
            others = [n for n in f["model"] if ".gdn." not in n]
            check(len(others) == 10 and all(same_bits(f["model"][n][()], g["model"][n][()]) for n in others), "others")
    # Back under the names it had: the file that holds those layers of the model.
    succeeds("export", "still", "-o", "back.safetensors", "--naming", "qwen3-next", "--layer", 3, "--layer", 1)
    succeeds("export", "in.h5", "-o", "direct.safetensors", "--dtype", "bf16")
    back, direct = st.read(Path("back.safetensors")), st.read(Path("direct.safetensors"))
    check(set(back) == set(direct), "names of a run's export")
    check(all(same_bits(back[n][0], direct[n][0]) and back[n][1] == "F32" for n in back), "values of a run's export")
    out = succeeds("train", *flags, "--out", "moved", "--init-from", "in.h5")
    check("after 0 updates" in out, out)
    succeeds("export", "moved", "-o", "moved.safetensors")
    moved_by = st.read(Path("moved.safetensors"))
    check(set(moved_by) == {PREFIX.format(b) + n for b in (0, 1) for n in layer("qwen3.5", 0)}, "default names")
    check(not same_bits(moved_by[PREFIX.format(0) + "A_log"][0], direct[PREFIX.format(3) + "A_log"][0]), "trained")
    for change_of, word in ((("--width", 12), "width"), (("--layers", 1), "layers"), (("--key-heads", 1), "key_heads")):
        bad = list(flags)
        bad[bad.index(change_of[0]) + 1] = change_of[1]
        refuses(["train", *bad, "--out", "none", "--init-from", "in.h5"], word, "in.h5")


def main():
    folder = Path(sys.argv[2])
    for test in (test_round_trips, test_namings_equal, test_places, test_export_options, test_checkpoint_refusals,
                 test_arguments, test_headers, test_files, test_index, test_config, test_training):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        os.chdir(folder)
        before = passed, failed
        test()
        print(f"{test.__name__[5:]}: {passed - before[0]} passed, {failed - before[1]} failed", flush=True)
    print(f"{passed} passed, {failed} failed")
    return failed > 0 or not passed


if __name__ == "__main__":
    sys.exit(main())
