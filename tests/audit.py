"""`python -m tests.audit`: known vulnerabilities of the pinned dependencies, where the index tells of any.

Exit 1 where one is found. An index that gives no advisories, as a mirror may not, is said to be so and fails nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

PINS = "constraints.txt"
_WORDS = ("-m", "pip_audit", "-r", PINS, "--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json")


def judge(found: Sequence[dict[str, Any]]) -> tuple[int, str]:
    """Exit code and what to say of pip-audit's dependencies."""
    asked = [d for d in found if "skip_reason" not in d]
    bad = [f"{d['name']} {d['version']}: {v['id']}" for d in asked for v in d["vulns"]]
    if not asked:
        return 0, f"dependency audit: none of {len(found)} was audited, as the index gives no advisories"
    skipped = f", {len(found) - len(asked)} not known to the index" if len(asked) < len(found) else ""
    if not bad:
        return 0, f"dependency audit: no known vulnerability in {len(asked)} dependencies{skipped}"
    return 1, "\n".join([f"dependency audit: {len(bad)} known vulnerabilities{skipped}", *bad])


def main() -> int:
    done = subprocess.run([sys.executable, *_WORDS], capture_output=True, text=True, check=False)
    try:
        code, said = judge(json.loads(done.stdout)["dependencies"])
    except (ValueError, KeyError):
        last = done.stderr.strip().splitlines()[-1:] or ["pip-audit said nothing"]
        code, said = 0, f"dependency audit: not done, pip-audit could not ask the index: {last[0][:200]}"
    print(said)
    return code


if __name__ == "__main__":
    sys.exit(main())
