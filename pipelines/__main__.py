"""The console command: what must be set before the first import of torch, then the command line."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run `recsys-meta`."""
    # Threads that wait must not spin: on a machine shared with anything else that costs several times the time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from pipelines.cli import main as run

        run()
    except KeyboardInterrupt:  # while the libraries are still being imported
        sys.exit(1)


if __name__ == "__main__":
    main()
