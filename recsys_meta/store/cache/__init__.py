"""Caches of adapted states: in process, Redis, Redis Cluster."""
