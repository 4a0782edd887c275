"""Simulated data sets of users, ads and cities with known ground truth."""
