"""Baselines that count: popularity, item means, random scores."""
