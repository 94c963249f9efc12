"""Runs `acdit-world bench` and its PyTorch counterpart in turn with the same flags, prints both and their ratio, and keeps them.

    python benches/compare.py BINARY [FLAG ...]          `make bench ARGS="FLAG ..."`, against pytorch_baseline.py
    python benches/compare.py BINARY train [FLAG ...]    `make bench ARGS="train FLAG ..."`, against pytorch_train.py

The ratio is PyTorch's time for a block over ours, counting what both compute, the denoising steps and the context; or PyTorch's time
for a step of training over ours. The result goes to
benches/results/ with the command, the commit and the machine.
"""

import datetime
import json
import math
import os
import pathlib
import platform
import re
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
DEFAULT_FLAGS = ["--preset", "b", "--resolution", "128", "--steps", "10"]  # a minute or two on two cores


def measure(command):
    print("$", *command, file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    return json.loads(done.stdout)


def block_seconds(result):
    return result["denoise_seconds"] + result["context_seconds"]


def machine():
    model = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return {"cpu": model[1] if model else platform.machine(), "cores": len(os.sched_getaffinity(0)), "kernel": platform.release()}


def commit():
    described = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=HERE)
    return described.stdout.strip() or None


def block(binary, flags):
    flags = flags or DEFAULT_FLAGS
    baseline = [sys.executable, str(HERE / "pytorch_baseline.py")]
    commands = {
        "acdit-world": [binary, "bench", *flags, "--json"],
        "PyTorch eager": [*baseline, *flags, "--json"],
        "PyTorch compiled": [*baseline, *flags, "--compile", "--json"],
    }
    return commands, flags, ("denoise_seconds", "context_seconds", "peak_memory_bytes", "share_of_ceiling"), block_seconds


def training(binary, flags):
    baseline = [sys.executable, str(HERE / "pytorch_train.py")]
    commands = {
        "acdit-world": [binary, "bench", "train", *flags, "--json"],
        "  --recompute": [binary, "bench", "train", *flags, "--recompute", "--json"],
        "PyTorch eager": [*baseline, *flags, "--json"],
        "PyTorch compiled": [*baseline, *flags, "--compile", "--json"],
    }
    columns = ("seconds_per_step", "samples_per_second", "peak_memory_bytes")
    return commands, ["train", *flags], columns, lambda result: result["seconds_per_step"]


def main():
    binary, *flags = sys.argv[1:]
    train = flags[:1] == ["train"]
    commands, flags, columns, cost = training(binary, flags[1:]) if train else block(binary, flags)
    results = {name: measure(command) for name, command in commands.items()}
    dtypes = {name: result["dtype"] for name, result in results.items()}
    if len(set(dtypes.values())) > 1:
        sys.exit(f"not comparable, name a --dtype: {dtypes}")

    ours = results["acdit-world"]
    ratios = {name: cost(result) / cost(ours) for name, result in results.items() if result is not ours}
    print(f"{'':18}", *(f"{column:>18}" for column in columns))
    for name, result in results.items():
        print(f"{name:18}", *(f"{result[column] or math.nan:18.4g}" for column in columns))
    for name, ratio in ratios.items():
        print(f"{name} takes {ratio:.2f} times as long for a {'step' if train else 'block'} as acdit-world")

    slug = re.sub(r"[^a-z0-9]+", "-", " ".join([ours["device"], ours["dtype"], *flags]).lower()).strip("-")
    out = HERE / "results" / f"{slug}.json"
    out.parent.mkdir(exist_ok=True)
    kept = {
        "command": "make bench ARGS=" + json.dumps(" ".join(flags)),
        "date": datetime.date.today().isoformat(),
        "commit": commit(),
        "machine": machine(),
        "results": results,
        "ratios": ratios,
    }
    out.write_text(json.dumps(kept, indent=1) + "\n")
    print("kept in", out)


if __name__ == "__main__":
    main()
