#!/usr/bin/env python3
"""Exit codes, messages and outputs of gdn run, compare, gradcheck and info.

    commands.py GDN

Exit 0: all passed; 1: something failed; 77: this Python lacks numpy or h5py.
"""
import csv
import os
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
    return subprocess.run([GDN, *map(str, args)], capture_output=True, text=True, timeout=60)


def succeeds(code, *args, has=()):
    """The command exits with code 0 or 1, prints what it should and nothing on stderr."""
    r = gdn(*args)
    check(r.returncode == code and r.stderr == "", f"{args}: {r.returncode}, {r.stderr!r}")
    for word in has:
        check(word in r.stdout, f"{args}: no {word!r} in {r.stdout!r}")
    return r


def fails(code, *args, has=()):
    """The command exits with the code, one line on stderr, and leaves no file behind or changed."""
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in Path().iterdir()}
    r = gdn(*args)
    after = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in Path().iterdir()}
    check(r.returncode == code, f"{args}: exit {r.returncode}, expected {code}: {r.stderr!r}")
    check(r.stderr.count("\n") == 1 and r.stderr.startswith("gdn"), f"{args}: stderr {r.stderr!r}")
    for word in has:
        check(word in r.stderr, f"{args}: no {word!r} in {r.stderr!r}")
    check(before == after, f"{args}: files changed: {set(after) ^ set(before)}")
    return r


def write(path, kind, tensors, **attributes):
    with h5py.File(path, "w") as f:
        f.attrs.update({"format": kind, "version": np.int32(1), **attributes})
        for name, x in tensors.items():
            f[name] = x


def operator_case(T=12, Hk=1, Hv=2, K=4, V=6, seed=0):
    rng = np.random.default_rng(seed)
    unit = lambda x: x / np.linalg.norm(x, axis=-1, keepdims=True)
    case = dict(q=unit(rng.standard_normal((T, Hk, K))), k=unit(rng.standard_normal((T, Hk, K))),
                v=rng.standard_normal((T, Hv, V)), g=-rng.random((T, Hv)), beta=rng.random((T, Hv)),
                initial_state=rng.standard_normal((2, Hv, K, V)),
                do=rng.standard_normal((T, Hv, V)), dht=rng.standard_normal((2, Hv, K, V)))
    case = {name: x.astype(np.float32) for name, x in case.items()}
    case["cu_seqlens"] = np.array([0, 7, T - 1])
    return case


def layer_case(T=14, D=8, Hk=1, Hv=2, K=4, V=6, W=3):
    rng = np.random.default_rng(1)
    C = 2 * Hk * K + Hv * V
    shapes = {"x": (T, D), "dout": (T, D), "in_proj_qkv.weight": (C, D),
              "in_proj_z.weight": (Hv * V, D), "in_proj_b.weight": (Hv, D),
              "in_proj_a.weight": (Hv, D), "conv1d.weight": (C, 1, W), "A_log": (Hv,),
              "dt_bias": (Hv,), "norm.weight": (V,), "out_proj.weight": (D, Hv * V)}
    return {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}, \
        {"Hk": np.int32(Hk), "K": np.int32(K)}


def test_help():
    succeeds(0, "--help", has=["run", "compare", "gradcheck", "info"])
    succeeds(0, "--version", has=["gdn 0."])
    for command in ("run", "compare", "gradcheck", "info"):
        for option in ("--help", "-h"):
            succeeds(0, command, option, has=[f"usage: gdn {command}", f"example: gdn {command}"])
    r = succeeds(0, "info", has=["libgdn", "build", "devices", "reference", "cpu", "cuda", "fp64 (K"])
    return "cuda       not usable" not in r.stdout


def test_usage():
    fails(2)
    fails(2, "frobnicate", has=["frobnicate"])
    fails(2, "info", "x", has=["'x'"])
    fails(2, "info", "--nonsense", has=["--nonsense"])
    for command in ("run", "gradcheck"):
        fails(2, command, has=["CASE.h5"])
        fails(2, command, "case.h5", "other.h5", "-o", "x.h5", has=["other.h5"])
        fails(2, command, "case.h5", "-o", "x.h5", "--backend", "gpu", has=["--backend", "gpu"])
        fails(2, command, "case.h5", "-o", "x.h5", "--dtype", "fp8", has=["--dtype", "fp8"])
        fails(2, command, "case.h5", "-o", "x.h5", "--backend", has=["--backend", "value"])
        fails(2, command, "case.h5", "-o", "", has=["-o"])
        fails(2, command, "case.h5", "-o", "x.h5", "--tol", "dq=1", has=["--tol"])
        fails(2, command, "case.h5", "-o", "x.h5", "--backend", "reference", "--dtype", "fp32",
              has=["fp64", "fp32"])
        fails(2, command, "case.h5", "-o", "x.h5", "--backend", "cpu", "--dtype", "fp64",
              has=["fp64"])
    fails(2, "run", "case.h5", has=["-o"])
    fails(2, "run", "case.h5", "-xo", "x.h5", has=["'-x'"])
    fails(2, "run", "case.h5", "-o", "x.h5", "--exact=3", has=["--exact=3", "value"])
    fails(2, "run", "case.h5", "-o", has=["-o", "value"])
    fails(2, "run", "case.h5", "-o", "x.h5", "--directions", "1", has=["--directions"])
    for text in ("-1", "x", "1001", "", "1.5"):
        fails(2, "gradcheck", "case.h5", "--directions", text, has=["--directions"])
    fails(2, "gradcheck", "case.h5", "--seed", "-3", has=["--seed"])
    fails(2, "gradcheck", "case.h5", "--result", "fp32.h5", "--backend", "cpu", has=["--result"])
    fails(2, "compare", "fp32.h5", has=["REFERENCE.h5"])
    for tol in ("dq", "dq=", "=1", "dq=-1", "dq=0", "dq=nan", "dq=inf", "dq=1x", "zz=1"):
        fails(2, "compare", "fp32.h5", "fp64.h5", "--tol", tol, has=["--tol"])


def test_run(has_cuda):
    expected = {"o", "final_state", "dq", "dk", "dv", "dg", "dbeta", "dh0"}
    for backend, dtype, stored in (("reference", None, "f8"), ("cpu", None, "f4"),
                                   ("cpu", "bf16", "f4"), ("cpu", "fp16", "f4")):
        name = {"reference": "fp64", "cpu": "fp32"}[backend] if dtype is None else dtype
        options = [] if dtype is None else ["--dtype", dtype]
        succeeds(0, "run", "case.h5", "-o", f"{name}.h5", "--backend", backend, *options)
        with h5py.File(f"{name}.h5") as f:
            check(set(f) == expected, f"{name}: {set(f)}")
            check(f.attrs["format"] == "gdn-result" and f.attrs["backend"] == backend and
                  f.attrs["dtype"] == name and f.attrs["ranks"] == 1, f"{name}: {dict(f.attrs)}")
            check(all(f[x].dtype == stored for x in f), f"{name}: stored types")
            check(all(not f[x][11:].any() for x in ("o", "dq", "dk", "dv", "dg", "dbeta")),
                  f"{name}: padding")
            if dtype == "bf16":
                check(all(not (f[x][()].view(np.uint32) & 0xFFFF).any() for x in ("o", "dq")),
                      "bf16 outputs are bf16 numbers")
        succeeds(0, "compare", f"{name}.h5", "fp64.h5", has=["PASS"])
    if not has_cuda:
        succeeds(0, "run", "case.h5", "-o", "default.h5", "--exact")
        check(h5py.File("default.h5").attrs["dtype"] == "fp32", "the cpu's default dtype")
        for command in ("run", "gradcheck"):
            fails(3, command, "case.h5", "-o", "x.h5", "--backend", "cuda", has=["cuda"])
            fails(3, command, "layer.h5", "-o", "x.h5", "--backend", "cuda", has=["cuda"])

    case = operator_case()
    del case["do"], case["dht"]
    write("forward.h5", "gdn-case", case)
    succeeds(0, "run", "forward.h5", "-o", "forward.result.h5", "--backend", "cpu")
    check(set(h5py.File("forward.result.h5")) == {"o", "final_state"}, "forward only")


def test_bad_cases():
    def broken(name, change, *words, code=2, attributes=None, **options):
        case = operator_case()
        change(case)
        write("broken.h5", "gdn-case", case, **(attributes or {}))
        for command in ("run", "gradcheck"):
            fails(code, command, "broken.h5", "-o", "x.h5", "--backend", options.get("backend", "cpu"),
                  "--dtype", options.get("dtype", "fp32"), has=["broken.h5", *words])

    broken("no k", lambda c: c.pop("k"), "k")
    broken("shape", lambda c: c.update(beta=c["beta"][:5]), "beta")
    broken("nan", lambda c: c["v"].__setitem__((3, 1, 2), np.nan), "v")
    broken("inf", lambda c: c["initial_state"].__setitem__((0, 0, 0, 0), np.inf), "initial_state")
    broken("gate", lambda c: c["g"].__setitem__((3, 1), 0.5), "g")
    broken("sequences", lambda c: c.update(cu_seqlens=np.array([0, 9, 8])), "cu_seqlens")
    broken("heads", lambda c: c.update(q=np.repeat(c["q"], 3, 1), k=np.repeat(c["k"], 3, 1)), "3")
    broken("scale", lambda c: None, "scale", attributes={"scale": np.nan})
    broken("version", lambda c: None, "version", attributes={"version": np.int32(9)})
    broken("overflow", lambda c: c["v"].__setitem__((3, 1, 2), 1e6), "v at [3, 1, 2]", "fp16",
           dtype="fp16")
    wide = operator_case(K=300)
    write("wide.h5", "gdn-case", wide)
    fails(2, "run", "wide.h5", "-o", "x.h5", "--backend", "cpu", has=["wide.h5", "300"])

    Path("text.h5").write_text("not HDF5")
    Path("empty.h5").write_bytes(b"")
    Path("cut.h5").write_bytes(Path("case.h5").read_bytes()[:3000])
    write("other.h5", "something-else", {})
    for path in ("text.h5", "empty.h5", "cut.h5", "other.h5", "absent.h5", ".", "fp32.h5"):
        fails(2, "run", path, "-o", "x.h5", has=[path])
        fails(2, "gradcheck", path, "-o", "x.csv", has=[path])
    for path in ("text.h5", "cut.h5", "absent.h5", "case.h5"):
        fails(2, "compare", path, "fp64.h5", "-o", "x.csv", has=[path])
        fails(2, "compare", "fp64.h5", path, has=[path])
        fails(2, "gradcheck", "case.h5", "--result", path, has=[path])


def test_failures():
    """Outputs that are not finite, and outputs that cannot be written."""
    case = operator_case(T=64, K=16)
    case["k"] *= 64
    case["cu_seqlens"] = np.array([0, 32, 64])
    write("growing.h5", "gdn-case", case)
    fails(4, "run", "growing.h5", "-o", "x.h5", "--backend", "cpu", has=["growing.h5", "finite"])
    Path("keep.h5").write_text("what was there before")
    fails(4, "run", "growing.h5", "-o", "keep.h5", "--backend", "cpu")
    fails(4, "run", "case.h5", "-o", "absent/x.h5", has=["absent/x.h5"])
    fails(4, "gradcheck", "case.h5", "-o", "absent/x.csv", has=["absent/x.csv"])
    fails(4, "compare", "fp32.h5", "fp64.h5", "-o", "absent/x.csv", has=["absent/x.csv"])
    r = gdn("gradcheck", "growing.h5", "--backend", "cpu", "--directions", "0")
    check(r.returncode == 1 and "nan" in r.stdout, "NaN gradients fail the check")


def copy_result(source, target, change, kind="gdn-result"):
    with h5py.File(source) as f:
        tensors = {name: f[name][()] for name in f}
        attributes = dict(f.attrs)
    change(tensors, attributes)
    attributes.pop("format"), attributes.pop("version")
    write(target, kind, tensors, **attributes)


def test_compare():
    r = succeeds(0, "compare", "fp32.h5", "fp64.h5", "-o", "compare.csv", has=["PASS", "dbeta"])
    rows = list(csv.DictReader(open("compare.csv")))
    check(list(rows[0]) == ["tensor", "against", "head", "error", "scale_error", "tolerance", "pass"],
          f"columns {list(rows[0])}")
    # 8 tensors of 2 heads, dq and dk of 1; dg and dbeta have 12 tokens a head: also as a whole.
    check(len(rows) == 16 and all(x["pass"] == "1" for x in rows), f"{len(rows)} rows")
    check(len(r.stdout.splitlines()) == 18, "a header, a row a head, a verdict")

    def scaled(t, a):
        t["dv"][:, 1] *= 1.003

    for dtype, code in (("fp32", 1), ("bf16", 0)):
        copy_result(f"{dtype}.h5", "scaled.h5", scaled)
        succeeds(code, "compare", "scaled.h5", "fp64.h5")
    copy_result("fp32.h5", "scaled.h5", scaled)
    r = succeeds(1, "compare", "scaled.h5", "fp64.h5", has=["FAIL", "worst: dv head 1", "element ["])
    check(r.stdout.count("FAIL ") == 1, "one row fails")
    succeeds(0, "compare", "scaled.h5", "fp64.h5", "--tol", "dv=0.01", has=["PASS"])
    succeeds(1, "compare", "scaled.h5", "fp64.h5", "--tol", "dv=0.001", "--tol", "o=1")
    succeeds(1, "compare", "fp32.h5", "fp64.h5", "--tol", "o=1e-12", has=["worst: o"])

    def lose_gradients(t, a):
        for name in ("dq", "dk", "dv", "dg", "dbeta", "dh0"):
            del t[name]

    copy_result("fp32.h5", "lost.h5", lose_gradients)
    fails(2, "compare", "lost.h5", "fp64.h5", has=["lost.h5", "dq"])
    succeeds(0, "compare", "fp32.h5", "lost.h5", has=["dq is not compared"])
    fails(2, "gradcheck", "case.h5", "--result", "lost.h5", has=["lost.h5", "gradients"])
    copy_result("fp32.h5", "nan.h5", lambda t, a: t["dk"].__setitem__((0, 0, 0), np.nan))
    fails(2, "compare", "nan.h5", "fp64.h5", has=["nan.h5", "dk"])
    write("longer.h5", "gdn-case", operator_case(T=15))
    succeeds(0, "run", "longer.h5", "-o", "longer.result.h5", "--backend", "cpu")
    fails(2, "compare", "longer.result.h5", "fp64.h5", has=["T", "15", "12"])
    fails(2, "gradcheck", "case.h5", "--result", "longer.result.h5", has=["T", "15", "12"])
    fails(2, "compare", "layer.result.h5", "fp64.h5", has=["operator"])


def test_gradcheck():
    succeeds(0, "gradcheck", "case.h5", "--backend", "reference", has=["PASS", "difference"])
    for dtype in ("fp32", "bf16", "fp16"):
        succeeds(0, "gradcheck", "case.h5", "--backend", "cpu", "--dtype", dtype, has=["PASS"])
        succeeds(0, "gradcheck", "case.h5", "--result", f"{dtype}.h5", has=["PASS"])
        for name, heads in (("dq", 1), ("dk", 1), ("dv", 2), ("dg", 2), ("dbeta", 2), ("dh0", 2)):
            for head in range(heads):
                def plant(t, a):
                    t[name][:, head] *= 1.01
                copy_result(f"{dtype}.h5", "planted.h5", plant)
                r = succeeds(1, "gradcheck", "case.h5", "--result", "planted.h5", "--directions", "0",
                             has=["FAIL", f"worst: {name}"])
                rows = [x.split() for x in r.stdout.splitlines() if " FAIL " in x]
                check(all(x[0] == name and x[2] in (str(head), "-") for x in rows[:-1]),
                      f"{dtype} {name} head {head}: {rows}")
    copy_result("fp64.h5", "padded.h5", lambda t, a: t["dv"].__setitem__((11, 0, 0), 1e-9))
    succeeds(1, "gradcheck", "case.h5", "--result", "padded.h5", has=["zero padding", "[11, 0, 0]"])
    r = succeeds(0, "gradcheck", "case.h5", "--directions", "0", "-o", "report.csv")
    check("difference" not in r.stdout, "no differences")
    rows = list(csv.DictReader(open("report.csv")))
    check({x["against"] for x in rows} == {"float64", "zero padding"}, "references without directions")
    check(max(float(x["error"]) for x in rows) < 4e-5, "errors in the CSV file")
    same = [succeeds(0, "gradcheck", "forward.h5", "--seed", s, "--backend", "cpu").stdout
            for s in (5, 5, 6)]
    check(same[0] == same[1] and same[0] != same[2], "the seed decides do and the directions")

    write("heads.h5", "gdn-case", operator_case(Hv=20))
    few = succeeds(0, "gradcheck", "heads.h5", "--backend", "cpu", has=["worst of the 20 heads"])
    every = succeeds(0, "gradcheck", "heads.h5", "--backend", "cpu", "--all")
    check(len(every.stdout.splitlines()) > len(few.stdout.splitlines()) + 100, "--all prints all")
    check(few.stdout.splitlines()[-1] == every.stdout.splitlines()[-1], "the same verdict")


def test_layers():
    tensors, attributes = layer_case()
    for backend, dtype in (("reference", "fp64"), ("cpu", "fp32")):
        result = "layer.result.h5" if backend == "cpu" else "layer64.result.h5"
        succeeds(0, "run", "layer.h5", "-o", result, "--backend", backend)
        with h5py.File(result) as f:
            check(f.attrs["format"] == "gdn-layer-result" and f.attrs["dtype"] == dtype,
                  f"{dict(f.attrs)}")
            check({"out", "dx", "dA_log", "dout_proj.weight"} <= set(f), f"{set(f)}")
        succeeds(0, "gradcheck", "layer.h5", "--backend", backend, has=["PASS", "A_log", "conv1d.q"])
        succeeds(0, "gradcheck", "layer.h5", "--result", result, has=["PASS"])
    succeeds(0, "compare", "layer.result.h5", "layer64.result.h5", has=["PASS", "out_proj"])
    fails(2, "run", "layer.h5", "-o", "x.h5", "--backend", "cpu", "--dtype", "bf16", has=["bf16"])
    fails(2, "gradcheck", "layer.h5", "--result", "fp32.h5", has=["fp32.h5", "layer"])
    fails(2, "gradcheck", "case.h5", "--result", "layer.result.h5", has=["layer.result.h5"])

    for name in ("A_log", "dt_bias"):
        for head in range(2):
            def plant(t, a):
                t["d" + name][head] *= 1.01
            copy_result("layer.result.h5", "planted.h5", plant, kind="gdn-layer-result")
            succeeds(1, "gradcheck", "layer.h5", "--result", "planted.h5", "--directions", "0",
                     has=["FAIL", f"worst: {name}"])
            succeeds(1, "compare", "planted.h5", "layer64.result.h5", has=[f"worst: {name}"])
    succeeds(0, "compare", "planted.h5", "layer64.result.h5", "--tol", "dt_bias=0.05")

    forward = {n: x for n, x in tensors.items() if n != "dout"}
    write("layer.forward.h5", "gdn-layer-case", forward, **attributes)
    succeeds(0, "run", "layer.forward.h5", "-o", "layer.forward.result.h5", "--backend", "cpu")
    check(set(h5py.File("layer.forward.result.h5")) == {"out"}, "a layer's forward only")
    succeeds(0, "gradcheck", "layer.forward.h5", "--backend", "cpu", has=["PASS"])
    fails(2, "compare", "layer.forward.result.h5", "layer.result.h5", has=["dx"])
    fails(2, "gradcheck", "layer.h5", "--result", "layer.forward.result.h5", has=["gradients"])

    del tensors["A_log"]
    write("broken.h5", "gdn-layer-case", tensors, **attributes)
    fails(2, "run", "broken.h5", "-o", "x.h5", has=["broken.h5", "A_log"])


def main():
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write("case.h5", "gdn-case", operator_case())
        tensors, attributes = layer_case()
        write("layer.h5", "gdn-layer-case", tensors, **attributes)
        has_cuda = test_help()
        test_run(has_cuda)
        test_usage()
        test_layers()
        test_bad_cases()
        test_failures()
        test_compare()
        test_gradcheck()
        os.chdir("/")
    print(f"{passed} passed, {failed} failed")
    return failed > 0 or passed == 0


if __name__ == "__main__":
    sys.exit(main())
