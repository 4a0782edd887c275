"""Training runs, comparisons of methods, and their report."""
