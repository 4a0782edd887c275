"""Choices of the next item: pooled experts, deep interest networks."""
