"""Revisions of the database schema, run by `recsys_meta.store.database.migrate`."""
