#!/usr/bin/env python3
"""Every named case through `gdn run` and `gdn compare`, and through a comparison of its own.

    cases.py GDN [--cuda] [NAME ...]

The expected values are the oracle's. Runs the host backends, or cuda alone. Exit 0: all passed; 1:
something failed, or nothing ran; 77: this Python lacks numpy or h5py, or there is no CUDA device.
"""
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

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
import make_cases  # noqa: E402
import oracle  # noqa: E402

# Backend, dtype: relative L2 error a head, and that of the gradients that sum over many terms.
RUNS = {
    ("reference", "fp64"): (1e-10, 1e-10),
    ("cpu", "fp32"): (2e-5, 4e-5),
    ("cpu", "bf16"): (1e-2, 2e-2),
    ("cpu", "fp16"): (2e-3, 4e-3),
}
CUDA_RUNS = {
    ("cuda", "fp32"): (2e-5, 4e-5),
    ("cuda", "bf16"): (1e-2, 2e-2),
    ("cuda", "fp16"): (2e-3, 4e-3),
}
SUMS = ("dg", "dbeta", "dh0")


def head_errors(got, want):
    """Relative L2 error of each head (axis 1 of every tensor); a head of zeros wants zeros."""
    for head in range(want.shape[1]):
        x, y = got[:, head].astype(np.float64), want[:, head]
        difference, norm = np.linalg.norm(x - y), np.linalg.norm(y)
        yield difference / norm if norm else (np.inf if difference else difference)


def compare(path, want, tolerances, padding):
    """Messages on what is wrong, and the largest error."""
    wrong, worst = [], 0.0
    with h5py.File(path) as f:
        if set(f) != set(want):
            return [f"datasets {sorted(f)}, expected {sorted(want)}"], np.nan
        for name, y in want.items():
            x = f[name][()]
            if x.shape != y.shape:
                wrong.append(f"{name}: shape {x.shape}, expected {y.shape}")
                continue
            if name in ("o", "dq", "dk", "dv", "dg", "dbeta") and np.any(x[padding:] != 0):
                wrong.append(f"{name}: padding tokens are not 0")
            for head, error in enumerate(head_errors(x, y)):
                worst = max(worst, error)
                if not error <= tolerances[name in SUMS]:  # NaN never passes
                    wrong.append(f"{name} head {head}: error {error:.1e}")
    return wrong, worst


def gdn(command, *arguments):
    done = subprocess.run([command, *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        lines = done.stderr.strip() or done.stdout.strip()
        return [f"gdn {arguments[0]}: exit {done.returncode}: {lines}"]
    return []


def run(command, directory, name, runs, failures):
    case, passed = make_cases.build(name), 0
    want = oracle.solve(case)
    paths = [directory / f"{name}.{what}.h5" for what in ("case", "expected", "result")]
    make_cases.write(paths[0], "gdn-case", case)
    make_cases.write_result(paths[1], want)
    for (backend, dtype), tolerances in runs.items():
        paths[2].unlink(missing_ok=True)
        wrong, worst = gdn(command, "run", paths[0], "-o", paths[2], "--backend", backend,
                           "--dtype", dtype), np.nan
        if not wrong:
            wrong, worst = compare(paths[2], want, tolerances, case["cu_seqlens"][-1])
            wrong += gdn(command, "compare", paths[2], paths[1])
        passed += not wrong
        print(f"{'FAIL' if wrong else 'ok':4} {name:16} {backend:9} {dtype}  worst {worst:.1e}")
        for line in wrong:
            failures.append(f"{name} {backend} {dtype}: {line}")
            print(f"     {line}")
    return passed, len(runs) - passed


def has_device(command, directory):
    case = make_cases.build("one_token")
    make_cases.write(directory / "device.case.h5", "gdn-case", case)
    done = subprocess.run([command, "run", directory / "device.case.h5", "-o",
                           directory / "device.h5", "--backend", "cuda"],
                          capture_output=True, text=True)
    if done.returncode == 3:
        print(f"skipped: {done.stderr.strip()}")
    return done.returncode != 3


def refusals(command, directory, failures):
    """`gdn compare` must reject a result with one head of one tensor off by 5 %."""
    want, wrong = oracle.solve(make_cases.build("dims_small")), 0
    paths = [directory / f"refusal.{what}.h5" for what in ("expected", "result")]
    make_cases.write_result(paths[0], want)
    for name in want:
        bad = {key: value.copy() for key, value in want.items()}
        bad[name][:, 1] *= 1.05
        make_cases.write_result(paths[1], bad)
        code = subprocess.run([command, "compare", *paths[::-1]], capture_output=True).returncode
        if code != 1:
            failures.append(f"compare with {name} off by 5 %: exit {code}, expected 1")
            wrong += 1
    return len(want) - wrong, wrong


def layer_case(D=64, Hk=2, Hv=4, dim=64, W=4):
    """A layer case in bf16 numbers: packed sequences, padding, A from 0.001 to 16 over the heads."""
    rng, cu = np.random.default_rng(5), np.array([0, 130, 130, 301])
    T, C = cu[-1] + 9, (2 * Hk + Hv) * dim
    scaled = {"x": ((T, D), 1), "dout": ((T, D), 1), "in_proj_qkv.weight": ((C, D), D**-0.5),
              "in_proj_z.weight": ((Hv * dim, D), D**-0.5), "in_proj_b.weight": ((Hv, D), D**-0.5),
              "in_proj_a.weight": ((Hv, D), D**-0.5), "conv1d.weight": ((C, 1, W), 0.5),
              "dt_bias": ((Hv,), 1), "norm.weight": ((dim,), 1),
              "out_proj.weight": ((D, Hv * dim), (Hv * dim)**-0.5)}
    case = {name: scale * rng.standard_normal(shape) for name, (shape, scale) in scaled.items()}
    case = {name: make_cases.to_bf16(x) for name, x in case.items()}
    case["A_log"] = np.log(np.geomspace(0.001, 16, Hv))
    case = {name: x.astype(np.float32) for name, x in case.items()}
    return {**case, "cu_seqlens": cu}, {"Hk": np.int32(Hk), "K": np.int32(dim)}


def layers(command, directory, dtypes, failures):
    """A layer on the device: against the reference's result, and its gradients by head."""
    paths = [directory / f"layer.{what}.h5" for what in ("case", "expected", "result")]
    tensors, attributes = layer_case()
    with h5py.File(paths[0], "w") as f:
        f.attrs.update({"format": "gdn-layer-case", "version": np.int32(1), **attributes})
        for name, x in tensors.items():
            f[name] = x
    wrong, failed = gdn(command, "run", paths[0], "-o", paths[1], "--backend", "reference"), 0
    for dtype in dtypes:
        on = "--backend", "cuda", "--dtype", dtype
        lines = wrong or gdn(command, "run", paths[0], "-o", paths[2], *on)
        lines = lines or gdn(command, "compare", paths[2], paths[1])
        lines = lines or gdn(command, "gradcheck", paths[0], *on, "--directions", 0)
        print(f"{'FAIL' if lines else 'ok':4} {'layer':16} cuda      {dtype}")
        failures += [f"layer cuda {dtype}: {line}" for line in lines]
        failed += bool(lines)
    return len(dtypes) - failed, failed


def main():
    command, cuda = sys.argv[1], "--cuda" in sys.argv
    names = [name for name in sys.argv[2:] if name != "--cuda"] or list(make_cases.CASES)
    passed, failed, failures = 0, 0, []
    with tempfile.TemporaryDirectory() as directory:
        if cuda and not has_device(command, Path(directory)):
            return 77
        for name in names:
            counts = run(command, Path(directory), name, CUDA_RUNS if cuda else RUNS, failures)
            passed, failed = passed + counts[0], failed + counts[1]
        if cuda:
            counts = layers(command, Path(directory), ("fp32", "bf16"), failures)
            passed, failed = passed + counts[0], failed + counts[1]
        if passed:
            counts = refusals(command, Path(directory), failures)
            passed, failed = passed + counts[0], failed + counts[1]
    for line in failures:
        print(line, file=sys.stderr)
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
