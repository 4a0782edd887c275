"""Persistence: the SQL database, which is the source of truth, and caches, whose values may be lost.

`database` holds engine, migrations and column types; `entities`, `tracking`, `model_registry` and `access` hold the
tables of a domain and the functions that read and write them; `cache` holds the caches in the process and in Redis.
"""
