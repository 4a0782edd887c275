"""Readers of raw files: delimited text and Parquet, cells, ids and times."""
