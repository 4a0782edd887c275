"""Baselines from counts and means: popularity, item means, random scores."""
