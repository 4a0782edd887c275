"""Rows of the database as files, and as runs of other trackers."""
