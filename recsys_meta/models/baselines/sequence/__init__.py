"""Baselines that read the order of a support."""
