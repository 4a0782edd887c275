"""Baselines with latent factors or content: iALS, Bayesian linear regression."""
