"""The flagship for rankings: its towers, its item memories and their gates."""
