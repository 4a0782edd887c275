"""Baselines of item-item evidence: ItemKNN, EASE, naive Bayes, Gaussian."""
