"""rank_failures.py GDN FOLDER MPIRUN OTHER [long|shared|batch [TIMES]]: a rank that fails ends the run soon, with one line that names
it, a failure's exit code and the last checkpoint intact. shared, batch: what may happen to two ranks on GPUs, which share
sequences or the batch, over NCCL where each has a GPU."""
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time

from support import FLAGS, Checks, arguments, differences, make_data, newest, rank_processes, run

gdn = arguments()
mpirun, other, times = sys.argv[3].split(), sys.argv[4], 20 if "long" in sys.argv[5:] else 1
cuda, batch = bool({"shared", "batch"} & set(sys.argv[5:])), "batch" in sys.argv[5:]
times = int(sys.argv[6]) if cuda and len(sys.argv) > 6 else times
c = Checks()
make_data(gdn)
# On a GPU ranks take longer to start.
DEADLINE, LIMIT, RANKS = 3.0, 30.0 if cuda else 10.0, 2 if cuda else 3
TRAIN = [gdn, "train", *FLAGS, "--data", "data.h5", "--threads", "1", "--deadline", str(DEADLINE), "--steps", "1000000"]
if cuda:
    TRAIN += ["--backend", "cuda", "--dtype", "fp32", "--key-dim", "16", "--value-dim", "16", "--sequence-ranks", "1" if batch else "0"]
rng = random.Random(5)
seconds = {}


def ranks(*commands):
    """A job of one command a rank."""
    job = []
    for i, one in enumerate(commands):
        job += [":"] * (i > 0) + ["-n", "1", *one]
    return mpirun + job


def start(out, *more):
    return [*TRAIN, "--out", out, *more]


def end(name, job, pattern, code, out, began):
    """Waits for a job that has to fail."""
    try:
        errors = job.communicate(timeout=60)[1]
    except subprocess.TimeoutExpired:
        job.kill()
        errors = job.communicate()[1] + "\n(60 s are over)"
    took = time.monotonic() - began
    seconds.setdefault(name, []).append(took)
    print(f"{name}: {took:.1f} s", flush=True)
    lines = [line for line in errors.splitlines() if line.startswith("gdn:")]
    c.check(took <= LIMIT, f"{name}: {took:.1f} s, expected at most {LIMIT}")
    c.check(job.returncode == code if code else job.returncode != 0, f"{name}: exit {job.returncode}: {errors}")
    if pattern:
        c.check(len(lines) == 1 and re.fullmatch(pattern, lines[0]), f"{name}: expected '{pattern}', found {errors}")
    else:
        c.check(not lines and "exited on signal 9" in errors, f"{name}: expected a line of mpirun, found {errors}")
    time.sleep(0.2)
    c.check(not rank_processes(gdn, out), f"{name}: left behind: {rank_processes(gdn, out)}")


def fail(name, command, pattern, code, out="none"):
    began = time.monotonic()
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end(name, job, pattern, code, out, began)


def continues(name, out, ranks=2):
    """The newest checkpoint of a run that ended badly goes on."""
    step = int(re.search(r"(\d+)\.h5", newest(out))[1])
    text = run(*mpirun, "-n", str(ranks), *start(out, "--resume", "--stop-at", str(step + 1)))
    c.check(f"at step {step}" in text and f"stopped after step {step + 1} " in text, f"{name}: {text}")


def signalled(name, number, victim, pattern, code):
    out = f"{name}{victim}"
    shutil.rmtree(out, ignore_errors=True)
    job = subprocess.Popen(mpirun + ["-n", str(RANKS), *start(out, "--checkpoint-every", "5")],
                           stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while "step 20/" not in job.stdout.readline():
        pass
    time.sleep(rng.uniform(0, 0.3))
    os.kill(rank_processes(gdn, out)[victim], number)
    began = time.monotonic()
    end(name, job, pattern, code, out, began)
    if not (cuda and seconds[name][1:]):  # once, where starting takes seconds
        continues(name, out)


def on_rank(victim, setting, command):
    """A job in which the library tests/support/other.c stands in on one rank, as a setting tells it."""
    return ranks(*[["env", f"LD_PRELOAD={other}", setting, *command] if i == victim else command for i in range(RANKS)])


def one_not_finite(victim):
    """A NaN on one rank: what it would send to its neighbour has it, or, on the last, its part of the loss."""
    out = f"nan{victim}"
    shutil.rmtree(out, ignore_errors=True)
    # Two layers, 20 steps without an evaluation.
    fail("one NaN", on_rank(victim, "OTHER_NAN=41", start(out, "--checkpoint-every", "10", "--eval-every", "0")),
         rf"gdn: rank {victim}: step 21: (gdn_dist_layer_forward: .* holds a NaN or Inf,.*|loss: expected a finite number, found -?nan); "
         rf"the last checkpoint is that of step 20 in {out}", 4, out)
    continues("one NaN", out)


def not_finite():
    shutil.rmtree("nan", ignore_errors=True)
    fail("nan", mpirun + ["-n", "2", *start("nan", "--steps", "50", "--lr", "1e30", "--warmup", "20", "--clip", "0",
                                            "--weight-decay", "0", "--checkpoint-every", "1")],
         r"gdn: rank \d: step (\d+): .*(expected a finite number, found -?(nan|inf)|NaN or Inf).*; "
         r"the last checkpoint is that of step \d+ in nan", 4, "nan")
    c.check(not differences(newest("nan"), newest("nan")), "nan: checkpoint")


SMALL_DISK = """mkdir disk && mount -t tmpfs -o size=$1 none disk && cp -a full/. disk/ || exit 99
shift; "$@"; code=$?; rm -r full; cp -a disk full; exit $code"""


def full_disk():
    """A disk, of memory where mounting it is allowed, that has no room for a second checkpoint; else a limit on files."""
    for folder in "full", "disk":
        shutil.rmtree(folder, ignore_errors=True)
    run(*mpirun, "-n", "2", *start("full", "--stop-at", "5"))
    small, more = ["unshare", "-rm", "bash", "-c", SMALL_DISK, "bash"], ["--resume", "--checkpoint-every", "10"]
    if subprocess.run([*small, "1M", "true"], capture_output=True).returncode == 0:
        room = sum(os.path.getsize("full/" + name) + 4096 for name in os.listdir("full")) + os.path.getsize(newest("full")) // 2
        os.rmdir("disk")
        fail("full disk", [*small, str(room), *mpirun, "-n", "2", *start("disk", *more)],
             r"gdn: rank 0: disk/step-000000000010\.h5: cannot write: No space left on device", 4, "disk")
    else:
        more = start("full", *more)
        fail("full disk", ranks(["bash", "-c", f"ulimit -f 64; exec {' '.join(more)}"], more),
             r"gdn: rank 0: full/step-000000000010\.h5: cannot write: File too large", 4, "full")
    c.check(newest("full").endswith("005.h5"), f"full disk: {newest('full')}")
    continues("full disk", "full")


def ends_well():
    """The exit of ranks that have done their work, where a library flushes streams that it found when it was loaded."""
    if not os.path.exists(other):
        return
    shutil.rmtree("well", ignore_errors=True)
    text = run(*mpirun, "-n", "2", "env", f"LD_PRELOAD={other}", "OTHER_STDERR=1", *start("well", "--steps", "5"))
    c.check("done: steps=5 " in text, f"the exit of ranks that have done their work: {text}")


def on_gpus(i):
    for victim in (i % RANKS,) if times > 1 else range(RANKS):
        signalled("kill", signal.SIGKILL, victim, None, None)
        signalled("stop", signal.SIGSTOP, victim,
                  rf"gdn: rank {victim} stopped answering for [3-9]\.\d s \(last seen in: .+\)", 4)
    not_finite()


def on_cpus(i, mpi_io):
    signalled("kill", signal.SIGKILL, i % RANKS if times > 1 else 1, None, None)
    for victim in (i % RANKS,) if times > 1 else (0, 2):
        signalled("stop", signal.SIGSTOP, victim,
                  rf"gdn: rank {victim} stopped answering for [3-9]\.\d s \(last seen in: .+\)", 4)
    not_finite()
    if os.path.exists(other):
        for victim in (i % RANKS,) if times > 1 else (1, 2):
            one_not_finite(victim)
        fail("version", on_rank(1, "OTHER_VERSION=199", start("none")),
             r'gdn: gdn_dist_create: "library version \d+" on rank 0, "library version 199" on rank 1: expected the same', 2)
    if os.path.exists(other) and mpi_io:
        fail("stop, file", on_rank(i % RANKS, "OTHER_STOP=1", start("none")),
             rf"gdn: rank {i % RANKS} stopped answering for [3-9]\.\d s \(last seen in: .+\)", 4)
    full_disk()
    fail("no file", ranks(start("none"), [*start("none"), "--data", "missing.h5"]),
         r"gdn: rank 1: missing\.h5: cannot open: No such file or directory", 2)
    fail("settings", ranks(start("none"), start("none", "--lr", "1")),
         r'gdn: gdn train: "lr = 0\.005" on rank 0, "lr = 1" on rank 1: expected the same', 2)
    fail("groups", mpirun + ["-n", "3", *start("none", "--sequence-ranks", "2")],
         r"gdn: rank 0: gdn_dist_create: sequence_ranks is 2, expected a divisor of the 3 ranks", 2)
    fail("sequences", mpirun + ["-n", "5", *start("none", "--sequence-ranks", "1")],
         r"gdn: rank 0: \[train\] batch_tokens: expected a sequence for each of 5 groups of ranks, found 4", 2)
    fail("usage", mpirun + ["-n", "2", *start("none", "--deadline", "soon")],
         r"gdn: rank \d: train: --deadline: expected seconds from 0\.5 to 3600, found 'soon' .*", 2)


if cuda:
    done = subprocess.run(start("probe", "--stop-at", "1"), capture_output=True, text=True)
    if done.returncode == 3:
        print("skipped:", done.stderr)
        sys.exit(77)
else:
    shared = "data through MPI-IO" in run(*mpirun, "-n", "2", *start("probe", "--stop-at", "1"))
ends_well()
for number in range(times):
    if cuda:
        on_gpus(number)
    else:
        on_cpus(number, shared)
c.check(not os.path.exists("none"), "something was written")
if not os.path.exists(other):
    print("not tried, for want of a library to preload: a NaN on one rank, another version on one rank")
for name, took in seconds.items():
    print(f"{name:10} {len(took):3} times, {min(took):.1f} to {max(took):.1f} s to exit")
c.finish()
