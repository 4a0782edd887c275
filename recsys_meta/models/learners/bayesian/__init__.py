"""Exact and variational posteriors for clicks."""
