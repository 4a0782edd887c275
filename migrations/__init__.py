"""The history of the database's schema. `recsys_meta.store.migrate` runs it."""
