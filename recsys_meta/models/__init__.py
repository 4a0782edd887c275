"""Predictors: the contract, learners, baselines and the bundle they are saved in."""
