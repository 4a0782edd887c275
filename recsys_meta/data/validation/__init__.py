"""Checks of raw rows, and the report of those that are refused."""
