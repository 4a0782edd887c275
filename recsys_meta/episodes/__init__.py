"""Episodes: splits of entities, support and query rows, padded task batches."""
