"""How a run starts: anew, from its last checkpoint (`resume=true`), or as a copy (`repeat=RUN`)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from hydra.conf import HydraConf
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pneumonia.errors import CheckpointError, ConfigError, TrainingError
from pneumonia.model.checkpoint import read_checkpoint
from pneumonia.training.config import check_config
from pneumonia.training.run_record import (
    CONFIG_FILE,
    RECORD_FILE,
    SUMMARY_FILE,
    RunSummary,
    read_run_summary,
)

_DATA_LOCATION = {"data.root", "data.table", "data.cache", "data.cache_dir", "data.num_workers"}
"""Where the same images lie and how they are read may differ from the recorded run."""
_HARDWARE = {f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy")}
"""May differ in a resumed run."""


@dataclass(frozen=True)
class RunStart:
    """What a run starts with."""

    config: DictConfig
    directory: str  # of the run
    overrides: Sequence[str] = ()  # typed on the command line
    checkpoint: str | None = None  # to continue from
    resumed: bool = False  # whether the run continues in its own directory
    fingerprint: str | None = None  # of the images that must be found; None accepts any
    sweep: bool = False  # whether this is one job of a multirun

    @property
    def test(self) -> bool:
        """Whether the test split is opened after the fit; by default only outside of sweeps."""
        return not self.sweep if self.config.test is None else bool(self.config.test)

    @property
    def export(self) -> bool:
        """Whether the best checkpoint is exported; by default only outside of sweeps."""
        return not self.sweep if self.config.export is None else bool(self.config.export)


def resolve_run_start(config: DictConfig, job: HydraConf) -> RunStart:
    """Decide what a run starts with.

    Raises:
        PneumoniaError: If there is nothing to resume or repeat, the command line contradicts the
            recorded run, or a new run would overwrite another one.
    """
    start = RunStart(
        config,
        job.runtime.output_dir,
        list(job.overrides.task),
        config.ckpt_path,
        sweep=job.mode == RunMode.MULTIRUN,
    )
    if config.resume and config.repeat is not None:
        raise ConfigError("resume=true and repeat=RUN exclude each other; give one of them.")
    if not config.resume:
        if (Path(start.directory) / CONFIG_FILE).exists():
            raise TrainingError(
                f"{start.directory} already holds a run. Add resume=true to continue it, or leave"
                " hydra.run.dir out to start a new run."
            )
        if config.repeat is None:
            return start
    run = Path(start.directory if config.resume else str(config.repeat))
    recorded, record, summary = _read_run(run)
    free = _DATA_LOCATION | (_HARDWARE if config.resume else set())
    given = {text.lstrip("+~").partition("=")[0]: text for text in start.overrides}
    ignored = free | {"resume", "repeat"} | ({"trainer"} if config.resume else set())
    for key, text in given.items():
        if key not in ignored and text not in record["overrides"]:
            raise ConfigError(
                f"{text} differs from the settings of the run in {run}, which resume and repeat"
                " use. Leave it out, or start a new run"
                f" (ckpt_path={run}/checkpoints/last.ckpt takes its weights)."
            )
    for key in free & (given.keys() | (_HARDWARE if "trainer" in given else set())):
        OmegaConf.update(recorded, key, OmegaConf.select(config, key))
    start = replace(
        start,
        config=recorded,
        overrides=record["overrides"],
        checkpoint=recorded.ckpt_path,
        fingerprint=record["fingerprint"],
    )
    if not config.resume:
        return start
    if summary is not None and summary["status"] == "finished":
        raise TrainingError(
            f"the run in {run} has finished. To train its model further, start a new run with"
            f" ckpt_path={run}/checkpoints/last.ckpt"
        )
    return replace(start, checkpoint=str(_newest_checkpoint(recorded, run)), resumed=True)


def _read_run(run: Path) -> tuple[DictConfig, dict[str, Any], RunSummary | None]:
    """The configuration, `run.json` and `summary.json` of a run."""
    if not all((run / name).is_file() for name in (CONFIG_FILE, RECORD_FILE)):
        raise TrainingError(
            f"{run} holds no run ({CONFIG_FILE} and {RECORD_FILE}). Give the directory of a run:"
            " hydra.run.dir=DIR to resume it, repeat=DIR to repeat it."
        )
    file = run / CONFIG_FILE
    try:
        config = cast(DictConfig, OmegaConf.load(file))
        check_config(cast(dict[str, Any], OmegaConf.to_container(config, resolve=True)))
        file = run / RECORD_FILE
        record = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(record["overrides"], list) or not isinstance(record["fingerprint"], str):
            raise TypeError("expected a list of overrides and a fingerprint")
        file = run / SUMMARY_FILE
        return config, record, read_run_summary(run)
    except Exception as error:  # a damaged file fails anywhere in yaml, OmegaConf or Python
        raise TrainingError(
            f"{file} is damaged, so the run cannot be resumed or repeated. Restore the file, or"
            f" start a new run from its weights: ckpt_path={run}/checkpoints/last.ckpt"
        ) from error


def _newest_checkpoint(config: DictConfig, run: Path) -> Path:
    """`last.ckpt`, or `best.ckpt` if the run was killed between writing the two."""
    nodes = [config.callbacks.get(name) for name in ("last", "best")]
    paths = [Path(node.dirpath) / f"{node.filename}.ckpt" for node in nodes if node]
    steps = {}
    for path in paths:
        checkpoint = read_checkpoint(path) if path.is_file() else {}
        if "optimizer_states" in checkpoint:
            ended = bool(checkpoint.get("resume_state", {}).get("ended", True))
            steps[path] = (checkpoint["global_step"], ended)
    if not steps:
        raise CheckpointError(
            f"the run in {run} stopped before its first checkpoint, so there is nothing to resume."
            f" Start it again in a new directory with repeat={run}"
        )
    return max(steps, key=lambda path: steps[path])
