"""What tests read of runs, and when two runs are the same."""

import csv
import socket
from pathlib import Path
from typing import Any

import torch

from pneumonia.model.checkpoint import read_checkpoint

PLATEAU = (
    "~model.schedule.pct_start",
    "~model.schedule.interval",
    "model.schedule.name=ReduceLROnPlateau",
)
"""Overrides that put `ReduceLROnPlateau` in place of the default schedule."""


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def checkpoint_of(run: Path, name: str = "last") -> dict[str, Any]:
    return read_checkpoint(run / "checkpoints" / f"{name}.ckpt")


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return list(csv.DictReader(file, strict=True))


def history(run: Path) -> list[dict[str, str]]:
    """Rows of the logs, without what a clock says; those logged again after a resume once."""
    rows = {}
    for file in sorted(run.glob("csv/version_*/metrics.csv")):
        for row in rows_of(file):
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
