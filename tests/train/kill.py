"""kill.py GDN FOLDER COUNT THREADS: runs are killed (SIGKILL) at random moments, COUNT times in all, and resumed until they end;
the last checkpoint is then bitwise that of a run which was left alone."""
import random
import shutil
import signal
import subprocess
import sys
import time

from support import FLAGS, Checks, arguments, differences, make_data, newest, run

gdn = arguments()
kills = int(sys.argv[3])
c = Checks()
make_data(gdn)


def command(out, every):
    return [gdn, "train", "--data", "data.h5", "--out", out, *FLAGS, "--steps", "120", "--eval-every", "25",
            "--checkpoint-every", str(every), "--threads", sys.argv[4], "--resume"]


begin = time.monotonic()
run(*command("whole", 1))
duration = time.monotonic() - begin
rng = random.Random(2)
landed = rounds = 0
while landed < kills:
    every = rng.randint(1, 3)
    rounds += 1
    shutil.rmtree("broken", ignore_errors=True)
    for _ in range(4):
        process = subprocess.Popen(command("broken", every), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        time.sleep(rng.uniform(0.02, 0.5) * duration)
        process.send_signal(signal.SIGKILL)
        errors = process.communicate()[1].decode()
        # A kill that comes after the end tests nothing and does not count.
        landed += process.returncode == -signal.SIGKILL
        c.check(process.returncode in (0, -signal.SIGKILL), f"exit {process.returncode}: {errors}")
        if process.returncode == 0 or landed == kills:
            break
    run(*command("broken", every))
    found = [name for name in differences(newest("whole"), newest("broken")) if name != "config"]
    c.check(not found, f"after {landed} kills, checkpoint every {every}: differ: {found}")
print(f"{landed} kills in {rounds} runs, a whole run takes {duration:.2f} s")
c.finish()
