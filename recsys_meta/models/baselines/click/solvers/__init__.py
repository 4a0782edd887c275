"""Solvers and encodings of the click baselines."""
