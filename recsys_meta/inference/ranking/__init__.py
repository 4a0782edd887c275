"""Scores to lists: top-k, filters, cursors, exploration."""
