"""Middleware and protocol: request context, rate limit, keys, problem details, fast path."""
