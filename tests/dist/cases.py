"""cases.py MPIRUN GDN all|some|cuda: the named cases and a layer through `mpirun -n P gdn run` and
`gdn compare`; `mpirun gdn gradcheck`; what is refused; `gdn plan`. some: one P a case, all: 2, 3, 4 and 8; cuda: the cases
that a GPU takes, on GPUs that the ranks share. Exit 77: this Python lacks numpy or h5py, this machine a GPU."""
import concurrent.futures
import subprocess
import sys
import tempfile
import uuid
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

mpirun, gdn, everything, cuda = sys.argv[1].split(), sys.argv[2], sys.argv[3] == "all", sys.argv[3] == "cuda"
directory = Path(tempfile.mkdtemp())
passed, failures = 0, []


def check(condition, message):
    global passed
    if condition:
        passed += 1
    else:
        failures.append(message)
        print(message, file=sys.stderr)


def run(*command):
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=120)


def run_ranks(ranks, *arguments):
    return run(*mpirun, "-n", ranks, gdn, *arguments)


def errors_hold(table):
    """Whether each row of `gdn compare` has its error within its tolerance. In bf16 a head whose dg is one element
    may miss the check of scale by that element's rounding: the shard alone on one GPU has the same bits."""
    rows = [line.split() for line in table.splitlines() if " result " in line]
    return len(rows) > 0 and all(float(row[3]) <= float(row[4]) for row in rows)


def check_case(job):
    name, backend, ranks, *dtype = job
    result = directory / f"{name}.{backend}.{ranks}.{''.join(dtype)}.h5"
    done = run_ranks(ranks, "run", directory / f"{name}.case.h5", "-o", result, "--backend",
                     backend, *(["--dtype", *dtype] if dtype else []))
    check(done.returncode == 0, f"{job}: exit {done.returncode}: {done.stderr}")
    if done.returncode:
        return
    done = run(gdn, "compare", result, directory / f"{name}.expected.h5")
    good = errors_hold(done.stdout) if dtype == ["bf16"] else done.returncode == 0
    check(good, f"{job}: {done.stdout} {done.stderr}")
    with h5py.File(result) as f:
        check(f.attrs["ranks"] == ranks, f"{job}: attribute ranks is {f.attrs['ranks']}")


def write_layer():
    """A packed layer case; its sequences are shorter than the convolution in places."""
    rng = np.random.default_rng(3)
    T, D, Hk, Hv, K, V, W = 40, 16, 1, 2, 16, 16, 4
    C = 2 * Hk * K + Hv * V
    shapes = {"in_proj_qkv.weight": (C, D), "in_proj_z.weight": (Hv * V, D),
              "in_proj_b.weight": (Hv, D), "in_proj_a.weight": (Hv, D),
              "conv1d.weight": (C, 1, W), "A_log": (Hv,), "dt_bias": (Hv,), "norm.weight": (V,),
              "out_proj.weight": (D, Hv * V)}
    tensors = {name: 0.4 * rng.standard_normal(shape) for name, shape in shapes.items()}
    tensors["x"] = rng.standard_normal((T, D))
    tensors["dout"] = rng.standard_normal((T, D))
    tensors["cu_seqlens"] = np.array([0, 2, 3, 30, 30, 40])
    make_cases.write(directory / "layer.case.h5", "gdn-layer-case",
                     {key: value if key == "cu_seqlens" else value.astype(np.float32)
                      for key, value in tensors.items()},
                     Hk=np.int32(Hk), K=np.int32(K))
    done = run(gdn, "run", directory / "layer.case.h5", "-o", directory / "layer.expected.h5",
               "--backend", "reference")
    check(done.returncode == 0, f"layer: {done.stderr}")


def check_gradcheck(name, ranks, backend):
    done = run_ranks(ranks, "gradcheck", directory / f"{name}.case.h5", "--backend", backend)
    check(done.returncode == 0 and done.stdout.count("gradcheck: PASS") == 1,
          f"gradcheck {name}: exit {done.returncode}: {done.stdout} {done.stderr}")


def check_refused(code, words, *command):
    """One line of the library, with all words, and the exit code."""
    done = run(*command)
    lines = [line for line in done.stderr.splitlines() if line.startswith("gdn")]
    check(done.returncode == code, f"{command}: exit {done.returncode}, expected {code}")
    check(len(lines) == 1 and all(word in lines[0] for word in words),
          f"{command}: expected one line with {words}, found {lines}")
    check(not list(directory.glob("refused*")), f"{command}: something was written")


def check_refusals():
    case, refused = directory / "packed.case.h5", directory / "refused.h5"
    bad = make_cases.build("packed")
    bad["k"][7, 1, 3] = np.nan
    make_cases.write(directory / "nan.case.h5", "gdn-case", bad)
    ranks = [*mpirun, "-n", 3]
    check_refused(2, ["rank", "absent.h5", "No such file"], *ranks, gdn, "run",
                  directory / "absent.h5", "-o", refused)
    check_refused(2, ["rank", "nan.case.h5", "k", "nan"], *ranks, gdn, "run",
                  directory / "nan.case.h5", "-o", refused)
    check_refused(2, ["rank", "--backend"], *ranks, gdn, "run", case, "-o", refused, "--backend",
                  "abacus")
    check_refused(2, ["rank", "fp64"], *ranks, gdn, "run", case, "-o", refused, "--backend",
                  "reference", "--dtype", "bf16")
    # A full disk, by a limit on the size of files; shared memory of MPI would be files, too.
    check_refused(4, ["rank 0", "refused.h5", "too large"], *ranks, "--mca", "btl", "self,tcp", "sh",
                  "-c", f"ulimit -f 16; exec {gdn} run {case} -o {refused}")
    check_refused(2, ["--ranks"], gdn, "plan", case, "--ranks", 0)


def check_plan():
    """The sum over heads of what crosses, by the formula: one fp32 state a head, and a header."""
    done = run(gdn, "plan", directory / "strong_gate.case.h5", "--ranks", 3)
    check(done.returncode == 0, f"plan: {done.stderr}")
    check(done.stdout.count(f"sequence 0, {16 + 4 * 2 * 128 * 128} bytes each way") == 2,
          f"plan: {done.stdout}")
    check(done.stdout.count("truncated") == 2 and done.stdout.count("the sequence began here") == 2,
          f"plan: {done.stdout}")
    done = run(gdn, "plan", directory / "strong_gate.case.h5", "--ranks", 3, "--exact")
    check(done.stdout.count("waits") == 3 and "2 times a head waits" in done.stdout,
          f"plan --exact: {done.stdout}")


def run_on_devices():
    """Ranks share the GPUs; states pass through the host."""
    jobs = []
    for i, name in enumerate(make_cases.CASES):
        case = make_cases.build(name)
        if case["k"].shape[-1] % 16 or case["v"].shape[-1] % 16:
            continue
        make_cases.write(directory / f"{name}.case.h5", "gdn-case", case)
        make_cases.write_result(directory / f"{name}.expected.h5", oracle.solve(case))
        jobs += [(name, "cuda", 2 + i % 3, dtype) for dtype in ("fp32", "bf16")]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(check_case, jobs))
    check_gradcheck("packed", 3, "cuda")


def main():
    if cuda and "devices    0" in run(gdn, "info").stdout:
        print("skipped: no CUDA device here")
        return 77
    if cuda:
        run_on_devices()
        print(f"{passed} passed, {len(failures)} failed")
        return bool(failures or not passed)
    jobs = []
    for i, name in enumerate(make_cases.CASES):
        case = make_cases.build(name)
        make_cases.write(directory / f"{name}.case.h5", "gdn-case", case)
        make_cases.write_result(directory / f"{name}.expected.h5", oracle.solve(case))
        for ranks in (2, 3, 4, 8) if everything else (2 + i % 3,):
            jobs += [(name, backend, ranks) for backend in ("reference", "cpu")]
    write_layer()
    jobs += [("layer", backend, ranks) for backend in ("reference", "cpu") for ranks in (2, 4)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        list(pool.map(check_case, jobs))
    for name, ranks, backend in (("packed", 3, "cpu"), ("dims_small", 2, "reference"),
                                 ("layer", 4, "cpu")):
        check_gradcheck(name, ranks, backend)
    check_refusals()
    check_plan()
    print(f"{passed} passed, {len(failures)} failed")
    return bool(failures or not passed)


sys.exit(main())
