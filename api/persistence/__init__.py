"""Asynchronous access to SQL and Redis from the event loop."""
