from tests.fixtures.real_datasets import data_root, real  # noqa: F401
