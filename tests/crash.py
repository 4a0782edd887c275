"""A power cut at any write: after it no file operation of `durable` does anything, not even cleaning up."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path


class PowerCut(BaseException):
    """The machine is off."""


class Power:
    """Counts flushes, renames and removals; the n-th one fails and so do all after it (n = 0: none does)."""

    def __init__(self, monkeypatch, n: int, *, half: bool = False) -> None:
        self.n, self.half, self.done, self.off = n, half, 0, False
        for owner, name in ((os, "fsync"), (Path, "rename"), (Path, "replace"), (Path, "unlink"), (shutil, "rmtree")):
            monkeypatch.setattr(owner, name, self._watched(getattr(owner, name), name))

    def _watched(self, real, name):
        def call(*args, **kwargs):
            self.done += 1
            if self.off or self.done == self.n:
                first, self.off = not self.off, True
                if first and self.half and name == "rmtree":  # some of it is gone when the light goes out
                    for file in [p for p in sorted(Path(args[0]).rglob("*")) if p.is_file()][:1]:
                        file.write_bytes(b"")
                raise PowerCut(name)
            return real(*args, **kwargs)

        return call


def each_cut(monkeypatch, write, *, before=None, half=False):
    """Run before(n), then write(n) with the power cut at its n-th operation, for every n until it comes through.

    Yields n, so that the caller looks at what is left.
    """
    n = 0
    while True:
        n += 1
        if before is not None:
            before(n)
        with monkeypatch.context() as patch:
            power = Power(patch, n, half=half)
            with contextlib.suppress(PowerCut):
                write(n)
        yield n
        if not power.off:
            return
