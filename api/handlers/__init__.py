"""Handlers of the routes: the life of a request, scoring, exploration, ingestion of events, encoding."""
