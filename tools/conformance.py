#!/usr/bin/env python3
"""Sets the Autobahn suite on the echo server and judges what it found: exit status 1 if a case fails.

    tools/conformance.py ECHO PYTHON2.7 SUITE [--out DIR]

ECHO is target/release/examples/echo, SUITE the folder that tools/setup.sh put the suite into. The report stays in DIR.
"""

import argparse
import collections
import json
import os
import pathlib
import subprocess
import sys

# 8 is free, 11 was never written, 12 and 13 are compression, which is not offered.
CASES = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"]
# INFORMATIONAL: the standard asks for nothing there, and the suite only says what happened.
GOOD = {"OK", "NON-STRICT", "INFORMATIONAL"}
AGENT = "acdit-world"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("echo")
    parser.add_argument("python")
    parser.add_argument("suite")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("target/conformance"))
    wanted = parser.parse_args()
    wanted.out.mkdir(parents=True, exist_ok=True)
    run(wanted)
    return judge(json.loads((wanted.out / "index.json").read_text())[AGENT])


def run(wanted):
    echo = subprocess.Popen([wanted.echo, "0"], stdout=subprocess.PIPE, text=True)
    try:
        url = echo.stdout.readline().strip()
        spec = wanted.out / "spec.json"
        servers = [{"agent": AGENT, "url": url + "/"}]
        rest = {"exclude-cases": [], "exclude-agent-cases": {}}
        spec.write_text(json.dumps({"outdir": str(wanted.out), "servers": servers, "cases": CASES, **rest}))
        start = "from autobahntestsuite.wstest import run; run()"
        command = [wanted.python, "-W", "ignore", "-c", start, "-m", "fuzzingclient", "-s", str(spec)]
        environment = {**os.environ, "PYTHONPATH": wanted.suite}
        with open(wanted.out / "wstest.log", "w") as log:
            subprocess.run(command, env=environment, stdout=log, stderr=subprocess.STDOUT, check=True)
    finally:
        echo.kill()
        echo.wait()


def judge(found):
    """Prints the results by group, and those that are not simply OK; returns the exit status."""
    order = sorted(found, key=lambda case: [int(part) for part in case.split(".")])
    groups = collections.defaultdict(collections.Counter)
    failed = []
    for case in order:
        behaviour, closing = found[case]["behavior"], found[case]["behaviorClose"]
        groups[int(case.split(".")[0])][behaviour] += 1
        if behaviour not in GOOD or closing not in GOOD:
            failed.append(f"{case}: {behaviour}, closing {closing}")
    for group, counts in groups.items():
        print(f"{group:>3}.*  " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    lacking = [wanted for wanted in CASES if int(wanted.split(".")[0]) not in groups]
    if lacking:
        failed.append("not run: " + ", ".join(lacking))
    print(f"{len(order)} cases, {len(failed)} failed")
    print("\n".join(failed), end="\n" if failed else "")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
