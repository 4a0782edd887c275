"""Methods for new items and known users: scores of items by their content and first interactions."""
