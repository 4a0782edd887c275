"""The flagship for rankings, its item memories and their gates."""
