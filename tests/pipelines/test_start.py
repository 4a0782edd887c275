"""Commands import what they need: those that need no model start without torch."""

import json
import subprocess
import sys

import pytest
from typer.main import get_command

from pipelines.cli import app

MODULES = ("torch", "pandas", "scipy", "fastapi")
PROGRAM = f"""
import json, sys
from pipelines.cli import main
try:
    main()
except SystemExit as left:
    print(json.dumps([m for m in {MODULES} if m in sys.modules]), file=sys.stderr)
    sys.exit(left.code)
"""


def imports(home, *words):
    """Those of the heavy libraries that a command imports."""
    env = {"RECSYS_META_HOME": str(home), "PATH": "/usr/bin:/bin"}
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], env=env, capture_output=True, text=True, check=False, timeout=100
    )
    assert ran.returncode == 0, ran.stderr
    return set(json.loads(ran.stderr.splitlines()[-1]))


@pytest.mark.parametrize(
    ("words", "needs"),
    [
        (("--version",), set()),
        (("--help",), set()),
        pytest.param(("train", "--help"), {"torch", "pandas", "scipy"}, marks=pytest.mark.slow),
        (("data", "list"), {"pandas", "scipy"}),
        (("runs", "list"), set()),
        (("models", "list"), set()),
        (("keys", "list"), set()),
        (("db", "current"), set()),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_heavy_libraries_are_imported_where_they_are_needed(tmp_path, words, needs):
    assert imports(tmp_path, *words) == needs


def test_the_help_of_the_group_is_that_of_the_commands():
    group = get_command(app)
    for name, command in group.commands.items():
        assert command.get_short_help_str(200) == group.load(name).get_short_help_str(200), name
