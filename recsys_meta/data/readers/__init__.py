"""Readers of raw files: delimited text, Parquet, and the conversion of cells, ids and times."""
