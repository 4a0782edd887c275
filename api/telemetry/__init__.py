"""Logs, Prometheus metrics and diagnostics of adaptations."""
