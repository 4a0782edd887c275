"""Warm-up of a new embedding on a frozen click model: Meta-Embedding, MWUF, CVAR."""
