"""FLA's Triton kernels from its source, for the benchmarks that compare libgdn with them."""

import importlib
import os
import re
import subprocess
import sys
import types


def import_fla(source, module, stubs):
    """A module of FLA, and FLA's version. stubs: its packages whose __init__ is not to run."""
    text = (source / "fla" / "__init__.py").read_text()
    version = re.search(r'__version__ = "(.*)"', text)
    version = version.group(1) if version else "?"
    for name in stubs:
        package = types.ModuleType(name)
        package.__path__ = [str(source.joinpath(*name.split(".")))]
        sys.modules[name] = package
    sys.modules["fla"].__version__ = version
    try:
        return importlib.import_module(module), version
    except ImportError as error:
        sys.exit(f"{error}; FLA needs it")


# ---- Triton's variants, compiled side by side ----


def try_share(part, parts):
    """From here on, Triton's autotuner tries a share of each kernel's variants only."""
    from triton.runtime.autotuner import Autotuner

    init = Autotuner.__init__

    def share(self, fn, arg_names, configs, *rest, **named):
        init(self, fn, arg_names, configs[part::parts] or configs[:1], *rest, **named)

    Autotuner.__init__ = share


def compile_all(command, kinds):
    """Runs the script with "--compile i n" for i < n, each of which leaves its share in Triton's
    cache, n at least the number of kinds of work; what they say of the script's own."""
    count = max(kinds, len(os.sched_getaffinity(0)))
    running = [
        subprocess.Popen(
            [sys.executable, *command, "--compile", str(i), str(count)], stderr=subprocess.PIPE, text=True
        )
        for i in range(count)
    ]
    name = os.path.basename(command[0])
    lines = {line for r in running for line in r.communicate()[1].splitlines() if name + ":" in line}
    return "\n".join(sorted(lines))
