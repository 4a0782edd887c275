"""Baselines of click probability."""
