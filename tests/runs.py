"""What tests read from run directories, and when two runs are the same."""

import csv
from pathlib import Path
from typing import Any

import torch

from pneumonia.model.checkpoint import read_checkpoint


def checkpoint_of(run: Path, name: str = "last") -> dict[str, Any]:
    return read_checkpoint(run / "checkpoints" / f"{name}.ckpt")


def history(run: Path) -> list[dict[str, str]]:
    """Rows of the logs, without what a clock says; those logged again after a resume once."""
    rows = {}
    for file in sorted(run.glob("csv/version_*/metrics.csv")):
        for row in csv.DictReader(file.read_text().splitlines()):
            found = {k: v for k, v in row.items() if v and k != "train/images_per_second"}
            rows[int(found["step"]), tuple(found)] = found
    return [rows[key] for key in sorted(rows) if key[1] != ("step",)]


def assert_same_result(first: Path, second: Path) -> None:
    """The files, weights and thresholds of two runs are the same to the bit."""
    for name in ("metrics.json", "predictions.csv", "validation.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    for name in ("best", "last"):
        one, other = checkpoint_of(first, name), checkpoint_of(second, name)
        for key, weight in one["state_dict"].items():
            assert torch.equal(weight, other["state_dict"][key]), (name, key)
        for key in ("calibration", "operating_point"):
            assert one.get(key) == other.get(key)
    assert not list(second.rglob("*.partial"))
