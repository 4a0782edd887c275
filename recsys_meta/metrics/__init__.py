"""Ranking and pooled metrics, and their confidence intervals."""
