"""Entities, events, adaptations and explorations in SQL."""
