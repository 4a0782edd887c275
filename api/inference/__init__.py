"""Models in memory, micro-batching, and the resolution of an entity's state."""
