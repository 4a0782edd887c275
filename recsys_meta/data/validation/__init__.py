"""Checks of raw rows, and the file of rejected ones."""
