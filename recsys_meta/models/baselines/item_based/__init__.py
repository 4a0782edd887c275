"""Baselines from item-item similarities: ItemKNN, EASE, naive Bayes, Gaussian."""
