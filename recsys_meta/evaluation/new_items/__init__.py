"""The curve of new items for known entities: methods tuned on validation items, evaluated on test items."""
