"""Simulated users, ads and cities whose truth is known."""
