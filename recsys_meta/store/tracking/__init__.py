"""Runs, metrics, curricula and evaluations in SQL, and the promotion gate."""
