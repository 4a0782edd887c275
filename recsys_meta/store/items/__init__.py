"""Items in SQL: features, titles, whether they are available, and the number of the last change."""
