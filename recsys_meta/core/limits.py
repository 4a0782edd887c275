"""Bounds that the tables of the database and the bodies of the HTTP API share."""

from __future__ import annotations

ID_LENGTH = 200
"""Characters of an identifier given by a caller."""

NAME_LENGTH = 100
"""Characters of a name that the project itself gives."""

LABEL_LENGTH = 50
"""Characters of the label of a split's arm."""

CURSOR_LENGTH = 88
"""Characters of the cursor of a list."""

MOST_ARMS = 10
"""Arms of a traffic split."""
