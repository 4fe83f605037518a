#!/usr/bin/env python3
"""gdn bench --rows, --summary, --memory and gdn plot of a table: what needs no GPU.

    bench.py GDN FOLDER PUBLISHED_CSV

The other tables of rows lie beside the published one.
"""
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as xml

gdn, folder, published = (os.path.abspath(a) for a in sys.argv[1:4])
shutil.rmtree(folder, ignore_errors=True)
os.makedirs(folder)
os.chdir(folder)
passed = failed = 0


def check(condition, message):
    global passed, failed
    if condition:
        passed += 1
    else:
        failed += 1
        print("FAILED:", message, file=sys.stderr)


def run(*args):
    return subprocess.run([gdn, *args], capture_output=True, text=True, timeout=60)


def fails(code, *args, has):
    """The exit code, one line on stderr that has the words, and no file made."""
    before = set(os.listdir())
    r = run(*args)
    check(r.returncode == code, f"{args}: exit {r.returncode}, expected {code}: {r.stderr!r}")
    check(r.stderr.count("\n") == 1 and r.stderr.startswith("gdn") and has in r.stderr, f"{args}: {r.stderr!r}")
    check(set(os.listdir()) == before, f"{args}: files made")


def write(name, text):
    with open(name, "w") as file:
        file.write(text)
    return name


HEAD = "pass,model,h_k,h_v,lengths,their_ms\n"
GOOD = HEAD + "fwd,m,2,8,64+64,0.5\n"

# Usage.
write("good.csv", GOOD)
for args, has in (
    (["--rows"], "--rows: expected a value"),
    (["--rows", "good.csv", "--summary", "good.csv"], "expected one of --rows, --summary and --memory"),
    (["--rows", "good.csv", "--backend", "cpu"], "--rows: expected --backend cuda, found cpu"),
    (["--rows", "good.csv", "--backend", "gpu"], "found 'gpu'"),
    (["--rows", "good.csv", "--repeat", "0"], "--repeat: expected an integer from 1"),
    (["--rows", "good.csv", "--label", "a/b"], "--label: expected letters"),
    (["--rows", "good.csv", "--tokens", "5"], "unknown option '--tokens'"),
    (["--rows", "good.csv", "more"], "found 'more'"),
    (["--rows", "good.csv", "--filter", "bwd"], "--filter: no row of good.csv matches"),
    (["--memory", "--heads", "2/3"], "--heads: expected Hk/Hv"),
    (["--memory", "--heads", "4"], "--heads: expected Hk/Hv"),
):
    fails(2, "bench", *args, has=has)

# Tables.
for text, has in (
    ("", "expected a header and rows, found nothing"),
    ("# only a comment\n", "found nothing"),
    (HEAD, "found no row"),
    ("pass,model,h_k,lengths\nfwd,m,2,64\n", "bad.csv:1: expected the columns"),
    ("pass,model,h_k,h_v,lengths,pass\n", "found pass twice"),
    (HEAD + "fwd,m,2,8,64\n", "bad.csv:2: expected 6 columns, found 5"),
    (HEAD + "# a comment\nfwd,m,2,8,64,1,1\n", "bad.csv:3: expected 6 columns, found 7"),
    (HEAD + "forward,m,2,8,64,1\n", "pass: expected fwd or bwd, found 'forward'"),
    (HEAD + "fwd,m,3,8,64,1\n", "h_v: expected a multiple of h_k = 3, found 8"),
    (HEAD + "fwd,m,0,8,64,1\n", "h_k: expected an integer"),
    (HEAD + "fwd,m,2,8x,64,1\n", "h_v: expected an integer from 1 to 65536, found '8x'"),
    (HEAD + "fwd,m,2,8,64+,1\n", "lengths: expected positive integers"),
    (HEAD + "fwd,m,2,8,64++64,1\n", "lengths: expected positive integers"),
    (HEAD + "fwd,m,2,8,0,1\n", "lengths: expected positive integers"),
    (HEAD + "fwd,m,2,8,-5,1\n", "lengths: expected positive integers"),
    (HEAD + "fwd,m,2,8,64 64,1\n", "lengths: expected positive integers"),
    (HEAD + "fwd,m,2,8,4294967296+1,1\n", "at most 4294967296 tokens"),
    (HEAD + "fwd,m,2,8,,1\n", "lengths: expected positive integers"),
    (HEAD + "fwd,m,2,8,64,fast\n", "their_ms: expected a time in milliseconds or nothing, found 'fast'"),
    (HEAD + "fwd,m,2,8,64,-1\n", "their_ms: expected a time"),
    (HEAD + "fwd,m,2,8,64,nan\n", "their_ms: expected a time"),
    (HEAD.replace("their_ms", "saved") + "fwd,m,2,8,64,all\n",
     "bad.csv:2: saved: expected nothing, inverse or states, found 'all'"),
    ("pass,model,h_k,h_v,lengths,libgdn_ms\nfwd,m,2,8,64,1\n", "found the column libgdn_ms of results"),
    ("," * 70 + "\n", "at most 64 columns"),
    ("x" * 70000 + "\n", "characters a line"),
):
    fails(2, "bench", "--rows", write("bad.csv", text), has=has)
fails(2, "bench", "--rows", "absent.csv", has="absent.csv: cannot read")
fails(2, "bench", "--summary", "good.csv", has="expected a column libgdn_ms")

write("saved.csv", HEAD.replace("their_ms", "saved") + "bwd,m,2,8,64,states\n")
fails(2, "bench", "--rows", "saved.csv", "--save", has="--save: the rows of saved.csv say themselves")

# The tables are read whole; without a device that is where it ends.
for table in (published, *(os.path.join(os.path.dirname(published), t) for t in ("groups.csv", "lengths.csv"))):
    r = run("bench", "--rows", table, "-o", "results", "--filter", "fwd/16/32/1024", "--filter", "*/16/48/8192",
            "--filter", "bwd/2/4/8192")
    if r.returncode == 3:
        check(r.stderr.count("\n") == 1 and "cuda" in r.stderr, r.stderr)
        check(not os.path.exists("results"), "a folder was made without a device")
    else:
        check(r.returncode == 0, r.stdout + r.stderr)

# The summary: geomeans by hand. fwd their_ms / ours: 2, 0.5 and, with 64 or more pairs, 8 and 0.5.
write("result.csv", "# said\npass,model,h_k,h_v,lengths,a_ms,b_ms,libgdn_ms,libgdn_cold_ms\n"
      "fwd,m,2,8,4096,2,,1,1\n"
      "fwd,m,2,8,4096+4096+4096+4096+4096+4096+4096+4096,1,4,2,2\n"
      "fwd,m,16,64,8192,8,1,1,1\n"
      "fwd,m,16,64,4096,8,1,,\n"
      "bwd,m,2,4,100,3,,2,2\n")
r = run("bench", "--summary", "result.csv")
lines = [line.split() for line in r.stdout.splitlines()]
check(r.returncode == 0 and r.stdout.startswith("4 of 5 rows have a libgdn_ms"), r.stdout + r.stderr)
for want in (
    "fwd a_ms all 3 2.000 0.500 fwd 2/8 8x4096",
    "fwd a_ms >= 64 2 2.000 0.500 fwd 2/8 8x4096",
    "fwd b_ms all 2 1.414 1.000 fwd 16/64 8192",
    "bwd a_ms all 1 1.500 1.500 bwd 2/4 100",
):
    check(want.split() in lines, f"no line {want!r} in\n{r.stdout}")
check(not any(line[:2] == ["bwd", "b_ms"] for line in lines), "b_ms has no time of a backward")

# Charts.
name = "{http://www.w3.org/2000/svg}"


def parts(path):
    root = xml.parse(path).getroot()
    return [t.text for t in root.iter(name + "text")], list(root.iter(name + "circle"))


r = run("plot", "result.csv", "--filter", "fwd", "-o", "all.svg")
check(r.returncode == 0 and r.stderr == "", r.stderr)
texts, dots = parts("all.svg")
check({"libgdn_ms", "a_ms", "b_ms", "fwd 2/8 8x4096", "fwd 16/64 4096"} <= set(texts), texts)
check(len(dots) == 4 + 3 + 2, f"{len(dots)} dots: a and b with their legend")
check("libgdn_cold_ms" not in texts and "Time of a call, result.csv" in texts, texts)
r = run("plot", "result.csv", "-o", "single.svg")
check(r.returncode == 0 and not any("8x" in t for t in parts("single.svg")[0]), r.stderr)
r = run("plot", published, "--filter", "bwd/16/32", "-o", "published.svg")
check(r.returncode == 0 and "bwd 16/32 7212+25556" in parts("published.svg")[0], r.stderr)
fails(2, "plot", "result.csv", "--filter", "bwd/9", "-o", "none.svg", has="expected a row to draw")
fails(2, "plot", published, "--filter", "fwd", "-o", "none.svg", has="at most 64 rows")
fails(2, "plot", "bad.csv", "--filter", "fwd", "-o", "none.svg", has="expected a table of times")
fails(2, "plot", "result.csv", "-o", "none.svg", "--filter", has="--filter: expected")

# Memory, by the backend that is there.
r = run("bench", "--memory", "--backend", "cpu", "--heads", "2/4")
rows = [line.replace("|", " ").split() for line in r.stdout.splitlines()]
rows = [[float(x) for x in row] for row in rows if row and row[0].isdigit()]
check(r.returncode == 0 and len(rows) == 11 and rows[0][0] == 1024 and rows[-1][0] == 1048576, r.stdout)
check(all(len(row) == 8 for row in rows), r.stdout)
check(rows[5][3] > rows[5][6] and rows[5][7] > rows[5][5] > 0, f"saving takes memory from backward: {rows[5]}")
check(1.9 < rows[6][7] / rows[5][7] < 2.1, "what is saved grows with the tokens")

print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed or not passed else 0)
