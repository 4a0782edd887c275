"""`python -m tests.contract.snapshots --write` writes the snapshots anew; without it, those that differ are named."""

from __future__ import annotations

import sys

from tests.contract.contract import FOLDER, SNAPSHOTS


def main() -> int:
    write, differ = "--write" in sys.argv[1:], []
    FOLDER.mkdir(exist_ok=True)
    for name, make in SNAPSHOTS.items():
        text, path = make(), FOLDER / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            differ.append(name)
            if write:
                path.write_text(text, encoding="utf-8")
    print(("written: " if write else "differ: ") + (", ".join(differ) or "none"))
    return 0 if write else len(differ)


if __name__ == "__main__":
    sys.exit(main())
