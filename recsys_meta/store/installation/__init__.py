"""Secret of an installation as a whole, which keys its digests and cursors."""
