"""Search of items by parts of their titles.

The titles lie in large texts, the most popular items first, and a search is a few scans of these: of a million titles
some tens of milliseconds where nothing is like the query, and no index to keep beside them.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate

_LINES = 10_000  # titles of one text: a scan holds the interpreter's lock, so each of them shall be short


class TitleIndex:
    """Titles of items in the order in which a search answers them."""

    def __init__(self, titles: Sequence[str]) -> None:
        lines = [fold_text(title) for title in titles]
        self._size = len(lines)
        self._blocks = [_TitleBlock(start, lines[start : start + _LINES]) for start in range(0, len(lines), _LINES)]

    def find(self, query: str, n: int) -> list[int]:
        """Find the positions of at most n titles that hold a text, whatever its case and accents: those that begin with
        it, then those of which a word does, then the others; the first titles where the text is empty."""
        text = fold_text(query)
        if not text:
            return list(range(min(n, self._size)))
        positions: dict[int, None] = {}
        for form in (f"\n{text}", f" {text}", text):
            for position in self._positions(form):
                positions[position] = None
                if len(positions) >= n:
                    return list(positions)
        return list(positions)

    def _positions(self, form: str) -> Iterator[int]:
        for block in self._blocks:
            yield from block.positions(form)


class _TitleBlock:
    """Lines of one text, from the title at `first` on."""

    def __init__(self, first: int, lines: Sequence[str]) -> None:
        self._first, self._text = first, "\n" + "\n".join(lines) + "\n"
        self._starts = list(accumulate((len(line) + 1 for line in lines), initial=0))[:-1]

    def positions(self, form: str) -> Iterator[int]:
        """Yield the positions of the lines that hold a text, each once."""
        at = self._text.find(form)
        while at >= 0:
            line = bisect_right(self._starts, at) - 1
            yield self._first + line
            if line + 1 == len(self._starts):
                return
            at = self._text.find(form, self._starts[line + 1])


def fold_text(text: str) -> str:
    """Reduce a text to what is compared: lower case without accents, one blank between words."""
    if not text.isascii():
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return " ".join(text.casefold().split())
