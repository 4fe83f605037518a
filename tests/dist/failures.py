"""failures.py MPIRUN PROGRAM OTHER TIMES [nccl]: jobs in which one rank fails end soon, with one line that names
it, a failure's exit code, and nothing left behind. The program's deadline is 3 s. nccl: two ranks, each with a GPU."""
import concurrent.futures
import os
import re
import subprocess
import sys
import time
import uuid

LIMIT = 10.0  # seconds to exit
LIMIT_NCCL = 15.0  # which takes a while to come up
RANKS = 3
# mode: victims, lines of the library, what each line must match, exit code (None: any but 0)
MODES = {
    "kill": ((0, 2), 0, None, None),
    "stop": ((0, 1, 2), 1, r"gdn: rank {0} stopped answering for \d+\.\d s \(last seen in: .+\)", 4),
    "exit": ((0, 2), 0, None, 3),
    "error": ((0, 2), 1, r"gdn: rank {0}: the disk is full", 6),
    "everyone": ((1,), 1, r"gdn: rank \d: all ranks met the same failure", 7),
    "nan": ((0, 1), 1, r"gdn: rank {0}: gdn_dist_forward: the exit state of head 0 holds a NaN or Inf,.*", 5),
    "late_nan": ((2,), 1, r"gdn: rank {0}: gdn_dist_backward: the entry gradient of head 0 holds a NaN or Inf,.*", 5),
    "shapes": ((0, 2), 1, r'gdn: gdn_dist_plan_create: "K (16|32)" on rank 0, "K (16|32)" on rank [12]: expected the same', 99),
    "version": ((1, 2), 1, r'gdn: gdn_dist_create: "library version \d+" on rank 0, "library version 199" on rank {0}: expected the same', 99),
    "argument": ((0, 1), 1, r"gdn: rank {0}: gdn_dist_forward: saved is NULL,.*", 4),
    "busy": ((0, 1, 2), 1, r"gdn: rank {0} keeps rank \d waiting for 6\.\d s \(gdn_dist_.*; rank {0} last seen in: .*\)", 4),
    "order": ((2,), 1, r"gdn: rank \d waits for 6\.\d s in vain, as all ranks wait \(.*\)", 4),
    "start": ((0, 1), 1, r"gdn: rank \d: MPI_Init_thread has not come back for \d\.\d s: .*", 4),
}
# Over NCCL: a device that waits is told of by the watch, the host waits in the program's own call.
OVER_NCCL = {mode: ((0, 1), *MODES[mode][1:]) for mode in ("kill", "stop", "exit", "error", "order")}
OVER_NCCL["busy"] = ((0, 1), 1, r"gdn: rank {0} keeps rank \d waiting for 6\.\d s \(a (send|receive) over NCCL, .*; rank {0} last seen in: .*\)", 4)


def left_behind(token):
    """Processes whose command line has the token."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                if token.encode() in f.read():
                    found.append(pid)
        except OSError:
            pass
    return found


def command(mpirun, program, other, mode, victim, token, nccl):
    """A job; in the mode "version" the library of tests/support/other.c is preloaded on the victim."""
    rank = [program, mode, str(victim), token]
    if nccl:
        return mpirun + ["-n", "2", *rank, "nccl"]
    if mode != "version":
        return mpirun + ["-n", str(RANKS), *rank]
    preload = ["env", f"LD_PRELOAD={other}", "OTHER_VERSION=199"]
    job = [[":", "-n", "1", *(preload if i == victim else []), *rank] for i in range(RANKS)]
    return mpirun + sum(job, [])[1:]


def run(mpirun, program, other, mode, victim, nccl):
    """One job; returns its seconds and what is wrong with it."""
    _, lines, pattern, code = (OVER_NCCL if nccl else MODES)[mode]
    limit = LIMIT_NCCL if nccl else LIMIT
    token = "job-" + uuid.uuid4().hex
    start = time.monotonic()
    job = subprocess.Popen(command(mpirun, program, other, mode, victim, token, nccl),
                           stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        errors = job.communicate(timeout=60)[1]
    except subprocess.TimeoutExpired:
        job.kill()
        errors = job.communicate()[1]
    seconds = time.monotonic() - start
    wrong = []
    if seconds > limit:
        wrong.append(f"ended after {seconds:.1f} s, expected at most {limit}")
    if job.returncode == 0 or (code is not None and job.returncode != code):
        wrong.append(f"exit code {job.returncode}, expected {code or 'a failure'}")
    found = [line for line in errors.splitlines() if line.startswith("gdn:")]
    if len(found) != lines or any(not re.fullmatch(pattern.format(victim), x) for x in found):
        wrong.append(f"expected {lines} lines '{pattern}', found {found}")
    if lines == 0 and "mpirun" not in errors and "mpiexec" not in errors:
        wrong.append("no word from mpirun")
    time.sleep(0.2)
    if left_behind(token):
        wrong.append(f"processes left behind: {left_behind(token)}")
    if wrong:
        wrong.append(errors)
    return seconds, wrong


def main():
    mpirun, program, other, times = sys.argv[1].split(), sys.argv[2], sys.argv[3], int(sys.argv[4])
    nccl = sys.argv[5:] == ["nccl"]
    modes = OVER_NCCL if nccl else MODES
    if nccl and subprocess.run(command(mpirun, program, other, "none", 0, "job-none", True)).returncode == 77:
        return 77
    if not nccl and not os.path.exists(other):
        print("not tried, for want of a library to preload: version")
        del MODES["version"]
    jobs = [(mode, victims[i % len(victims)]) for mode, (victims, *_) in modes.items()
            for i in range(max(times, len(victims)))]
    seconds, failed = {}, 0
    # Most jobs sleep most of the time.
    with concurrent.futures.ThreadPoolExecutor(3 if nccl else 4) as pool:
        results = pool.map(lambda job: run(mpirun, program, other, *job, nccl), jobs)
        for (mode, victim), (took, wrong) in zip(jobs, results):
            seconds.setdefault(mode, []).append(took)
            failed += bool(wrong)
            if wrong:
                print(f"{mode}, rank {victim}:", *wrong, sep="\n  ", file=sys.stderr)
    for mode, took in seconds.items():
        print(f"{mode:10} {len(took):3} jobs, {min(took):.1f} to {max(took):.1f} s to exit")
    print(f"{len(jobs) - failed} passed, {failed} failed")
    return bool(failed)


sys.exit(main())
