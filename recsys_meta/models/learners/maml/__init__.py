"""MAML, first and second order: the inner loop and its scorers."""
