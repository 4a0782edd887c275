"""Data sets by name, and data sets of one's own by a TOML schema."""
