"""Unpacks chosen members of every wheel in a folder.

    python3 unpack_wheels.py WHEELS DEST FROM=TO [FROM=TO ...]

A member whose name starts with FROM goes to DEST/TO plus the rest of its name. A rule that matches nothing is an error, so that a
wheel laid out in another way is noticed here and not by the linker.
"""

import pathlib
import shutil
import sys
import zipfile


def unpack(wheels, dest, rules):
    """Returns the rules that no member matched."""
    unmatched = set(rules)
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.infolist():
                source = next((s for s in rules if member.filename.startswith(s)), None)
                if source is None or member.is_dir():
                    continue
                unmatched.discard(source)
                target = dest / (rules[source] + member.filename[len(source) :])
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as packed, open(target, "wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
    return unmatched


if __name__ == "__main__":
    wheels, dest, *rules = sys.argv[1:]
    unmatched = unpack(pathlib.Path(wheels), pathlib.Path(dest), dict(rule.split("=", 1) for rule in rules))
    if unmatched:
        sys.exit("the wheels hold nothing named " + ", ".join(sorted(unmatched)))
