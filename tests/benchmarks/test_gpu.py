"""The benchmark of accelerators: it skips in words where there is none, and it finds a device that computes wrongly."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from benchmarks import gpu


def test_without_an_accelerator_it_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu", "--json", str(tmp_path / "gpu.json")])
    gpu.main()
    assert "skipped: torch" in capsys.readouterr().err
    result = json.loads((tmp_path / "gpu.json").read_text())
    assert "no CUDA device" in result["skipped"] and result["rows"] == []


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        name = "ratings, exact posterior"
        patch.setattr(gpu, "CASES", {name: gpu.CASES[name]})
        (made,) = gpu.make_cases(tmp_path_factory.mktemp("gpu"), "cpu", 8)
    return made


def test_a_device_that_computes_something_else_is_an_error(case, monkeypatch):
    assert gpu.check_equal(case) == 0
    right = gpu.answers

    def wrong(run, batch):
        found = right(run, batch)
        return found | {"scores": found["scores"] * (1.01 if run is case.device else 1.0)}

    monkeypatch.setattr(gpu, "answers", wrong)
    with pytest.raises(AssertionError, match="ratings, exact posterior, scores"):
        gpu.check_equal(case)


def test_rows_of_a_case(case):
    peak = gpu.DevicePeak(1e12, 1e12)
    rows = gpu.measure(case, peak, 1)
    units = [(row["unit"], row["system"]) for row in rows]
    assert units == [("tasks/s", "cpu")] * 2 + [("ms", "cpu")] * 4 + [("share of roofline", "cpu")]
    assert all(row["value"] > 0 for row in rows)


def test_work_is_counted():
    x = torch.ones(8, 16)
    with gpu.ByteCounter() as size:
        torch.mm(x, x.T)
    assert size.total == 4 * (8 * 16 * 2 + 8 * 8), "the transposed view moves nothing"
    assert gpu.DevicePeak(10.0, 2.0).bound(20, 2) == 2.0 and gpu.DevicePeak(10.0, 2.0).bound(1, 2) == 1.0
