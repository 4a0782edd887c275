"""The console command: what must be set before the first import of torch, then the command line."""

from __future__ import annotations

import os


def main() -> None:
    """Run `recsys-meta`."""
    # Threads that wait must not spin: on a machine shared with anything else that costs several times the time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pipelines.cli import main as run

    run()


if __name__ == "__main__":
    main()
