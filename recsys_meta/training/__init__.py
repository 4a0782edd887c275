"""Meta-training: recipe, outer loop, checkpoints, task hardness and curricula."""
