"""From an entity's raw events to a ranked list, and why."""
