"""Preparation of data sets from raw files or simulators, and access to prepared ones."""

from recsys_meta.data.build.describe import describe
from recsys_meta.data.build.prepare import prepare
from recsys_meta.data.build.prepared_dataset import open_dataset
from recsys_meta.data.readers.raw_tables import RawTables
from recsys_meta.data.simulators.ads import ClickTruth, simulate_ads
from recsys_meta.data.simulators.cities import WalkTruth, simulate_cities
from recsys_meta.data.simulators.latent_factors import GroundTruth, SimulatedDataset
from recsys_meta.data.simulators.users import simulate_users
from recsys_meta.data.sources.ground_truth import ground_truth_of
from recsys_meta.data.sources.registry import SOURCES, DataSource, locate, prepare_named
from recsys_meta.data.sources.toml_schema import find_schema, prepare_custom, read_custom
from recsys_meta.data.validate import ValidationReport, validate

__all__ = [
    "SOURCES",
    "ClickTruth",
    "DataSource",
    "GroundTruth",
    "RawTables",
    "SimulatedDataset",
    "ValidationReport",
    "WalkTruth",
    "describe",
    "find_schema",
    "ground_truth_of",
    "locate",
    "open_dataset",
    "prepare",
    "prepare_custom",
    "prepare_named",
    "read_custom",
    "simulate_ads",
    "simulate_cities",
    "simulate_users",
    "validate",
]
