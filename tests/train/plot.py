"""Plots: well-formed SVG with its parts, for one run, two runs, a step's timeline and a gradient-check report."""
import re
import xml.etree.ElementTree as xml

from support import FLAGS, Checks, arguments, make_data, run

gdn = arguments()
c = Checks()
make_data(gdn)
for out in "first", "second & last":
    run(gdn, "train", "--data", "data.h5", "--out", out, *FLAGS, "--steps", "45", "--eval-every", "15")


def parts(path):
    root = xml.parse(path).getroot()
    name = "{http://www.w3.org/2000/svg}"
    return [t.text for t in root.iter(name + "text")], [p.get("d") for p in root.iter(name + "path")], \
        list(root.iter(name + "circle"))


run(gdn, "plot", "first", "-o", "one.svg")
texts, paths, dots = parts("one.svg")
c.check("Loss" in texts and "tokens seen" in texts and "first: held-out loss" in texts, f"texts: {texts}")
c.check(sum(t.rstrip('k').isdigit() for t in texts) >= 4, f"ticks of x: {texts}")
c.check(max(d.count("L") for d in paths) == 44, "the curve of 45 steps")
c.check(len(dots) == 3 + 1, f"{len(dots)} dots, expected one an evaluation and the legend's")

run(gdn, "plot", "first/log.h5", "second & last", "-o", "two.svg")
texts, paths, dots = parts("two.svg")
c.check("second & last: training loss, smoothed" in texts, f"texts: {texts}")
c.check(len(dots) == 8, f"{len(dots)} dots")

run(gdn, "train", "--data", "data.h5", "--out", "profiled", *FLAGS, "--steps", "6", "--profile", "3", "--recompute", "layer")
run(gdn, "plot", "profiled", "--timeline", "-o", "step.svg")
root = xml.parse("step.svg").getroot()
texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
spans = list(root.iter("{http://www.w3.org/2000/svg}rect"))
c.check(any(t.startswith("profiled: one training step: ") for t in texts), f"title: {texts}")
c.check(all(t in texts for t in ("operator", "projections", "MLP", "head and its loss", "milliseconds")), f"parts: {texts}")
# Two blocks: 7 spans a forward, 7 a backward; the first block's forward again; 6 others; background and 4 passes.
c.check(len(spans) == 2 * 7 + 2 * 7 + 7 + 6 + 5, f"{len(spans)} spans")
shares = [float(re.search(r"ms, ([\d.]+)%", t)[1]) for t in texts if "ms, " in t and t.endswith("%")]
c.check(abs(sum(shares) - 100) < 1, f"shares: {shares}")
text = run(gdn, "plot", "first", "--timeline", "-o", "none.svg", code=2)
c.check("expected a timeline (gdn train --profile STEP), found none" in text, text)

with open("report.csv", "w") as file:
    file.write("tensor,against,head,error,scale_error,tolerance,pass\n")
    for head in range(4):
        file.write(f"dq,float64,{head},{1e-7 * (head + 1)},1e-9,1e-5,1\n")
        file.write(f"dg,float64,{head},{2e-4 if head == 2 else 3e-7},1e-9,1e-5,{0 if head == 2 else 1}\n")
    file.write("out_proj,finite difference,-1,0,0,1e-6,1\n")
run(gdn, "plot", "report.csv", "-o", "report.svg")
texts, paths, dots = parts("report.svg")
c.check("dg, float64" in texts and "out_proj, finite difference" in texts, f"texts: {texts}")
c.check(len(dots) == 9 + 2, f"{len(dots)} dots, expected one a row and the legend's")
c.check(sum(d.get("fill") == "#d00000" for d in dots) == 2, "one failing head, and the legend")

with open("broken.csv", "w") as file:
    file.write("tensor,against,head,error,scale_error,tolerance,pass\ndq,float64,zero\n")
text = run(gdn, "plot", "broken.csv", "-o", "broken.svg", code=2)
c.check("broken.csv:2: expected tensor,against" in text, text)
c.finish()
