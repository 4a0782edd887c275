"""Columns and clusters derived from coordinates."""
