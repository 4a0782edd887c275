"""Settings of all tests."""

from hypothesis import settings

# Machines that share their cores are slow now and then: that is no failure of an example. Every run draws the same
# examples, so that one that fails fails for whoever made it fail; `--hypothesis-profile=fresh` draws others.
settings.register_profile("fresh", deadline=None)
settings.register_profile("recsys-meta", deadline=None, derandomize=True)
settings.load_profile("recsys-meta")
