"""The HTTP door: recommendations for newcomers, feedback, the registry and what adapting did."""
