"""Raw tables to prepared data sets: encoding, sorting, statistics."""
