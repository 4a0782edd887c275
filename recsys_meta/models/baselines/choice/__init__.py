"""Baselines of the next choice."""
