"""Entry point of the console command: set the environment that torch reads at import, then run the command line."""

from __future__ import annotations

import os
import sys


def main() -> None:
    """Run `recsys-meta`."""
    # Waiting threads must not spin: on a machine shared with other processes that multiplies the run time.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        from pipelines.cli import main as run

        run()
    except KeyboardInterrupt:  # while the libraries are still being imported
        sys.exit(1)


if __name__ == "__main__":
    main()
