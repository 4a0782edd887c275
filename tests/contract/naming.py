"""Counts how names, docstrings and packages are formed: `python -m tests.contract.naming [--list]`.

`tests.contract.test_naming` holds the shares that it counts below their bounds.
"""

from __future__ import annotations

import ast
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]
PACKAGES = ("recsys_meta", "api", "pipelines")
OPENING = re.compile(r"(What|Whether|Which|Who|Whom|Whose|Where|When|How|Why|The same|As|If)\b")
"""Openings of docstrings that name no thing: a docstring opens with a verb or a noun of the field."""
RETIRED = re.compile(
    r"\b(houses?|ladders?|part(?:y|ies) of|companies|in company|rooms?|newcomer's words)\b", re.IGNORECASE
)
"""Metaphors that were names once."""
# Past participles that stand alone, as a name of what was done to a thing that the name does not say.
IRREGULAR = frozenset(
    [
        "told",
        "said",
        "made",
        "kept",
        "found",
        "known",
        "given",
        "gone",
        "left",
        "held",
        "met",
        "read",
        "sent",
        "set",
        "shown",
        "done",
        "drawn",
        "chosen",
        "taken",
        "seen",
        "written",
        "begun",
        "broken",
        "built",
        "bought",
        "brought",
        "caught",
        "cut",
        "dealt",
        "felt",
        "fed",
        "fought",
        "gotten",
        "grown",
        "heard",
        "hidden",
        "hit",
        "laid",
        "led",
        "lent",
        "lost",
        "meant",
        "paid",
        "put",
        "ridden",
        "risen",
        "run",
        "sold",
        "shut",
        "sung",
        "sat",
        "slept",
        "spoken",
        "spent",
        "stood",
        "struck",
        "sworn",
        "swept",
        "taught",
        "thrown",
        "thought",
        "understood",
        "won",
        "worn",
        "wound",
        "woven",
        "shaken",
        "frozen",
        "stolen",
        "torn",
        "split",
        "bound",
    ]
)
NOUNS = frozenset(
    [
        "run",
        "set",
        "read",
        "split",
        "cut",
        "hit",
        "put",
        "seed",
        "speed",
        "feed",
        "need",
        "embed",
        "bed",
        "red",
        "shed",
        "weed",
        "deed",
        "breed",
        "bleed",
        "indeed",
        "hundred",
        "left",
        "bound",
        "exceed",
        "proceed",
        "known",
    ]
)
"""Words of the above that are nouns or adjectives of the field as well, or none of them."""


def participle(name: str) -> bool:
    """Return whether a name is one past participle and nothing else."""
    word = name.strip("_").lower()
    if not word.isalpha() or word in NOUNS:
        return False
    return word in IRREGULAR or bool(re.fullmatch(r"[a-z]{2,}ed", word))


def words_of(name: str) -> list[str]:
    """Return the words of a name in CamelCase: an acronym is one, and so is what follows it."""
    return re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z0-9]*|[a-z0-9]+", name.strip("_"))


@dataclass
class Counts:
    """Names of a tree by kind, and where they stand."""

    classes: list[tuple[str, str]] = field(default_factory=list)
    variables: list[tuple[str, str]] = field(default_factory=list)
    docstrings: list[tuple[str, str]] = field(default_factory=list)
    public: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    files: Counter[str] = field(default_factory=Counter)

    @property
    def one_word_classes(self) -> list[tuple[str, str]]:
        return [(where, name) for where, name in self.classes if len(words_of(name)) == 1]

    @property
    def participle_classes(self) -> list[tuple[str, str]]:
        return [(where, name) for where, name in self.classes if participle(name)]

    @property
    def participle_variables(self) -> list[tuple[str, str]]:
        return [(where, name) for where, name in self.variables if participle(name)]

    @property
    def vague_docstrings(self) -> list[tuple[str, str]]:
        return [(where, text.split("\n")[0]) for where, text in self.docstrings if OPENING.match(text)]

    @property
    def defined_twice(self) -> list[tuple[str, str]]:
        return [(", ".join(sorted(at)), name) for name, at in sorted(self.public.items()) if len(at) > 1]


def source_files(packages: Iterable[str] = PACKAGES) -> list[Path]:
    """Return every Python file of the packages."""
    return sorted(file for package in packages for file in (ROOT / package).rglob("*.py"))


def local_names(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[ast.Name]:
    """Yield each local variable of a function once, where it is first bound; parameters are the signature's."""
    names: dict[str, ast.Name] = {}
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.setdefault(node.id, node)
    yield from names.values()


@cache
def count(packages: tuple[str, ...] = PACKAGES) -> Counts:
    """Count the names of the packages."""
    counts = Counts()
    for file in source_files(packages):
        at = str(file.relative_to(ROOT))
        counts.files[str(file.parent.relative_to(ROOT))] += file.name != "__init__.py"
        tree = ast.parse(file.read_text(encoding="utf-8"))
        if text := ast.get_docstring(tree):
            counts.docstrings.append((f"{at}:1", text))
        for node in tree.body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith(
                "_"
            ):
                counts.public[node.name].add(at)
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                where = f"{at}:{node.lineno}"
                if text := ast.get_docstring(node):
                    counts.docstrings.append((where, text))
                if isinstance(node, ast.ClassDef):
                    counts.classes.append((where, node.name))
                else:
                    counts.variables += [(f"{at}:{name.lineno}", name.id) for name in local_names(node)]
    return counts


def root_entries() -> list[str]:
    """Return the entries of the root of the library, without those of Python itself."""
    return sorted(p.name for p in (ROOT / "recsys_meta").iterdir() if p.name != "__pycache__")


def retired_words() -> list[tuple[str, str]]:
    """Return lines of source and documents that hold a metaphor of the past."""
    texts = [*source_files(), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md"]
    return [
        (f"{file.relative_to(ROOT)}:{n}", line.strip())
        for file in texts
        for n, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if RETIRED.search(line)
    ]


def share(some: Iterable[object], of: Iterable[object]) -> float:
    """Return the size of some as a share of all."""
    return len(list(some)) / max(1, len(list(of)))


def shares() -> dict[str, float]:
    """Return what is measured, by name."""
    counts = count()
    return {
        "entries of the package root": len(root_entries()),
        "one-word class names": share(counts.one_word_classes, counts.classes),
        "classes that are participles": share(counts.participle_classes, counts.classes),
        "local variables that are participles": share(counts.participle_variables, counts.variables),
        "public names defined in two modules or more": share(counts.defined_twice, counts.public),
        "docstrings that open with no verb or noun": share(counts.vague_docstrings, counts.docstrings),
        "median files of a package": median(counts.files.values()),
        "most files of a package": max(counts.files.values()),
    }


def main() -> None:
    """Print what is measured and, with --list, each place."""
    for name, value in shares().items():
        print(f"{name:45} {value:.3f}" if isinstance(value, float) else f"{name:45} {value}")
    if "--list" in sys.argv:
        counts = count()
        for title in (
            "one_word_classes",
            "participle_classes",
            "participle_variables",
            "vague_docstrings",
            "defined_twice",
        ):
            print(f"\n{title}")
            for where, text in getattr(counts, title):
                print(f"  {where}: {text}")
        print("\nretired words")
        for where, text in retired_words():
            print(f"  {where}: {text}")


if __name__ == "__main__":
    main()
