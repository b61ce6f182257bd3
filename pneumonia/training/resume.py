"""How a run starts: anew, from where it was interrupted, or as the repetition of another."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.conf import HydraConf
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from pneumonia.errors import CheckpointError, ConfigError, TrainingError
from pneumonia.model.checkpoint import read_checkpoint
from pneumonia.training.run_record import differences, read_config, read_record

log = logging.getLogger(__name__)

_KEYS = {"resume", "repeat"}
_PLACES = {"data.root", "data.table", "data.cache", "data.cache_dir", "data.num_workers"}
"""Where the same data lie and how they are read: free to differ."""
_WHERE = {f"trainer.{key}" for key in ("accelerator", "devices", "num_nodes", "strategy")}
"""Where a run goes on is not what it is: free to differ in one that is resumed."""


@dataclass(frozen=True)
class RunStart:
    """What a run starts with.

    Attributes:
        config: Its whole configuration.
        overrides: What was typed to compose it.
        choices: The file chosen of each group.
        checkpoint: The checkpoint to go on from, or None.
        resumed: Whether it goes on in its own directory.
        fingerprint: Of the data it must find; None: any.
    """

    config: DictConfig
    overrides: Sequence[str]
    choices: dict[str, Any]
    checkpoint: str | None = None
    resumed: bool = False
    fingerprint: str | None = None


def resolve_run_start(config: DictConfig, job: HydraConf) -> RunStart:
    """Decide what a run starts with.

    Args:
        config: The composed configuration; `resume` and `repeat` in it decide.
        job: Hydra's own configuration of the run.

    Raises:
        PneumoniaError: If there is nothing to resume or repeat, or the command line contradicts
            what was recorded.
    """
    overrides, choices = list(job.overrides.task), dict(job.runtime.choices)
    if not config.resume and config.repeat is None:
        return RunStart(config, overrides, choices, config.ckpt_path)
    if config.resume and config.repeat is not None:
        raise ConfigError("resume=true and repeat=RUN exclude each other; give one of them.")
    run = Path(job.runtime.output_dir if config.resume else config.repeat)
    record = read_record(run)
    recorded = read_config(run)
    _refuse_contradictions(config, overrides, choices, recorded, record, run)
    different = differences(record["provenance"])
    if different:
        log.warning("not as when %s was started: %s", run, "; ".join(different))
    typed, chosen = record["overrides"], record["choices"]
    given = {text.lstrip("+").partition("=")[0] for text in overrides}
    free = _PLACES if config.repeat is not None else _PLACES | _WHERE
    for key in free & (given | (_WHERE if "trainer" in given else set())):
        OmegaConf.update(recorded, key, OmegaConf.select(config, key))
    if config.repeat is not None:
        fingerprint = record["fingerprint"]
        return RunStart(recorded, typed, chosen, recorded.ckpt_path, fingerprint=fingerprint)
    if record.get("finished"):
        raise TrainingError(
            f"the run in {run} finished at {record['finished']}; nothing is left to resume. To"
            f" train its model further: ckpt_path={run}/checkpoints/last.ckpt in a new run."
        )
    checkpoint = _last_complete(recorded, run)
    return RunStart(recorded, typed, chosen, str(checkpoint), True, record["fingerprint"])


def _last_complete(config: DictConfig, run: Path) -> Path:
    """The newer of the two checkpoints of training; of equals, the one to resume from.

    The best one is the newer where a run was killed between writing the two.
    """
    nodes = [config.callbacks.get(name) for name in ("last", "best")]
    paths = [Path(node.dirpath) / f"{node.filename}.ckpt" for node in nodes if node]
    steps = {}
    for path in paths:
        if path.is_file():
            checkpoint = read_checkpoint(path)
            if "optimizer_states" in checkpoint:
                steps[path] = (checkpoint["global_step"], _ended(checkpoint))
    if not steps:
        raise CheckpointError(
            f"the run in {run} was stopped before its first checkpoint, so there is nothing to go"
            f" on from; start it afresh in a new directory with repeat={run}."
        )
    return max(steps, key=lambda path: steps[path])


def _ended(checkpoint: dict[str, Any]) -> bool:
    return bool(checkpoint.get("continuation", {}).get("ended", True))


def _refuse_contradictions(
    config: DictConfig,
    overrides: Sequence[str],
    choices: dict[str, Any],
    recorded: DictConfig,
    record: dict[str, Any],
    run: Path,
) -> None:
    free = _KEYS | _PLACES | (_WHERE | {"trainer"} if config.resume else set())
    for text, override in zip(
        overrides, OverridesParser.create().parse_overrides(list(overrides)), strict=True
    ):
        key = override.key_or_group
        if key in free or text in record["overrides"]:
            continue
        if key in choices:
            given, found = choices[key], record["choices"].get(key)
        else:
            given, found = (OmegaConf.select(node, key) for node in (config, recorded))
        if given != found:
            verb = "repeat" if config.repeat is not None else "resume"
            raise ConfigError(
                f"{text} contradicts the run in {run}, which has {key}={found}; leave it out to"
                f" {verb} that run, or begin a new one"
                f" (ckpt_path={run}/checkpoints/last.ckpt takes its weights along)."
            )
