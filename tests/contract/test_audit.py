"""What the dependency audit makes of an index that answers, answers badly, or does not."""

import pytest

from tests.audit import judge

WELL = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1"}, {"id": "PYSEC-2"}]}
UNKNOWN = {"name": "c", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("found", "code", "words"),
    [
        ([WELL], 0, "no known vulnerability in 1"),
        ([WELL, UNKNOWN], 0, "1 not known to the index"),
        ([UNKNOWN, UNKNOWN], 0, "none of 2 was audited"),
        ([], 0, "none of 0"),
        ([WELL, BAD, UNKNOWN], 1, "b 2: PYSEC-2"),
    ],
)
def test_judge(found, code, words):
    assert judge(found)[0] == code
    assert words in judge(found)[1]
