"""Batch adaptation: event files, partitions, resumable jobs, executors."""
