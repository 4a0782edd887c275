"""Data in: raw files or a simulator to prepared data sets."""

from recsys_meta.data.custom import prepare_custom
from recsys_meta.data.describe import describe
from recsys_meta.data.prepare import prepare
from recsys_meta.data.prepared import open_dataset
from recsys_meta.data.registry import SOURCES, Source, locate, prepare_named
from recsys_meta.data.showings import ClickTruth, simulate_ads
from recsys_meta.data.simulator import simulate_users
from recsys_meta.data.tables import RawTables
from recsys_meta.data.validate import Report, validate
from recsys_meta.data.walks import WalkTruth, simulate_cities
from recsys_meta.data.world import Simulation, Truth

__all__ = [
    "SOURCES",
    "ClickTruth",
    "RawTables",
    "Report",
    "Simulation",
    "Source",
    "Truth",
    "WalkTruth",
    "describe",
    "locate",
    "open_dataset",
    "prepare",
    "prepare_custom",
    "prepare_named",
    "simulate_ads",
    "simulate_cities",
    "simulate_users",
    "validate",
]
