"""Settings of all tests."""

from hypothesis import settings

# Machines that share their cores are slow now and then: that is no failure of an example.
settings.register_profile("recsys-meta", deadline=None)
settings.load_profile("recsys-meta")
