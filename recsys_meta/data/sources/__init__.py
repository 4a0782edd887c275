"""Built-in data sets by name, and the user's own data by a TOML schema."""
