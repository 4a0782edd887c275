"""Requests about an entity, read and encoded for one model."""
