"""The run directory: claimed once, and what is written there for later readers."""

import csv
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf

from pneumonia.errors import DataError, TrainingError
from pneumonia.files import clear_partial, whole_file
from pneumonia.labels import CLASSES
from pneumonia.training.provenance import changes, provenance
from pneumonia.training.schema import check

CONFIG_FILE = "config.yaml"
RECORD_FILE = "run.json"
CHANGES_FILE = "changes.diff"
HOLDOUT_FILE = "holdout.csv"

_DIRECTORY = "${hydra:runtime.output_dir}"

_RECORDED = {"overrides": list, "choices": dict, "fingerprint": str, "provenance": dict}

_SHOWN = (
    "data.batch_size",
    "data.image_size",
    "model.backbone",
    "model.optimizer.lr",
    "model.optimizer.name",
    "seed",
    "trainer.max_epochs",
)
_PLACES = {"data.root", "data.cache_dir", "ckpt_path"}
"""Settings that say where things lie, not what the run is."""


class RunRecord(Callback):
    """Write into the run directory what is needed to understand, resume and repeat the run.

    `config.yaml` comes last and claims the directory; it is written once, and so are the others:
    `run.json` (command, code, packages, machine, data), `changes.diff` (what the checkout had
    uncommitted) and `holdout.csv`.

    Args:
        directory: The run directory.
        config: The composed and resolved configuration, plain values.
        overrides: What was typed to compose it.
        choices: The file chosen of each group.
        resumed: Whether the directory holds the record already.
        fingerprint: Of the data that must be found; None: any.
    """

    def __init__(
        self,
        directory: str | Path,
        config: Mapping[str, Any],
        overrides: Sequence[str] = (),
        choices: Mapping[str, Any] | None = None,
        resumed: bool = False,
        fingerprint: str | None = None,
    ) -> None:
        self.directory = Path(directory)
        self.config = config
        self.overrides = overrides
        self.choices = choices or {}
        self.resumed = resumed
        self.fingerprint = fingerprint

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Claim the directory, and write the record, before a fit.

        Raises:
            DataError: If the data are not those of the run that is resumed or repeated.
        """
        if stage != "fit" or not trainer.is_global_zero:
            return
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        val = datamodule.splits["val"]
        found = (datamodule.splits["train"] + val).fingerprint()
        if self.fingerprint not in (None, found):
            raise DataError(
                f"{datamodule.root} does not hold what the run was trained on (fingerprint"
                f" {self.fingerprint}, now {found}): images were added, removed or replaced; bring"
                " them back, or train anew without resume and repeat."
            )
        if self.resumed:
            clear_partial(self.directory)
            return
        rows = zip(val.paths, val.labels, val.patients, val.subtypes, strict=True)
        with whole_file(self.directory / HOLDOUT_FILE) as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "patient", "subtype"])
            writer.writerows((p, CLASSES[label], patient, s) for p, label, patient, s in rows)
        with whole_file(self.directory / CHANGES_FILE) as file:
            file.write(changes())
        _write_record(
            self.directory,
            {
                "started": _now(),
                "finished": None,
                "overrides": list(self.overrides),
                "choices": dict(self.choices),
                "fingerprint": found,
                "provenance": provenance(),
            },
        )
        with whole_file(self.directory / CONFIG_FILE) as file:
            file.write(OmegaConf.to_yaml(OmegaConf.create(_movable(self.config, self.directory))))


def read_record(directory: str | Path) -> dict[str, Any]:
    """What a run recorded of itself.

    Args:
        directory: Its directory.

    Raises:
        TrainingError: If there is no run, or its record is damaged.
    """
    file = Path(directory) / RECORD_FILE
    if not (Path(directory) / CONFIG_FILE).is_file() or not file.is_file():
        raise TrainingError(
            f"{directory} holds no run ({CONFIG_FILE} and {RECORD_FILE}); name the directory of"
            " one, by hydra.run.dir=DIR to resume it or by repeat=DIR."
        )
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        whole = all(isinstance(record[key], kind) for key, kind in _RECORDED.items())
    except (ValueError, LookupError, TypeError, RecursionError):
        whole = False
    if not whole:
        raise damaged(file)
    return cast(dict[str, Any], record)


def read_config(directory: str | Path) -> DictConfig:
    """The configuration that a run recorded.

    Args:
        directory: Its directory.

    Raises:
        TrainingError: If it is damaged.
    """
    file = Path(directory) / CONFIG_FILE
    try:
        config = OmegaConf.load(file)
        check(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]  # it is told
    except Exception as error:  # yaml, OmegaConf and Python have each their own for a damaged file
        raise damaged(file) from error
    return cast(DictConfig, config)


def damaged(file: Path) -> TrainingError:
    """What to say of a run whose record cannot be read.

    Args:
        file: The damaged one.
    """
    return TrainingError(
        f"{file} is damaged, so that the run cannot be gone on with or repeated; bring the file"
        f" back, or begin a new run (ckpt_path={file.parent}/checkpoints/last.ckpt takes its"
        " weights along)."
    )


def finish(trainer: Trainer, directory: str | Path) -> None:
    """Note that nothing of the run is missing.

    Args:
        trainer: The first of its processes writes.
        directory: The run directory.
    """
    if trainer.is_global_zero:
        _write_record(Path(directory), read_record(directory) | {"finished": _now()})


def refuse_used(directory: str | Path) -> None:
    """Refuse a run directory that already holds a run.

    Args:
        directory: The run directory.

    Raises:
        TrainingError: If it holds the configuration of a run.
    """
    if (Path(directory) / CONFIG_FILE).exists():
        raise TrainingError(
            f"{directory} already holds a run, which would be overwritten; resume=true goes on"
            " with it, without hydra.run.dir a new directory is made."
        )


def _movable(value: Any, directory: Path) -> Any:
    """The directory as a reference: it may be moved, and is another one in a repetition."""
    if isinstance(value, Mapping):
        return {key: _movable(item, directory) for key, item in value.items()}
    if isinstance(value, list):
        return [_movable(item, directory) for item in value]
    if isinstance(value, str) and Path(value).is_relative_to(directory):
        return (Path(_DIRECTORY) / Path(value).relative_to(directory)).as_posix()
    return value


def _write_record(directory: Path, record: Mapping[str, Any]) -> None:
    with whole_file(directory / RECORD_FILE) as file:
        file.write(json.dumps(record, indent=2) + "\n")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def log_hyperparameters(
    trainer: Trainer, config: DictConfig, overrides: Sequence[str], metrics: dict[str, float]
) -> None:
    """Put a finished run into TensorBoard's HParams tab.

    Args:
        trainer: Its loggers are written to.
        config: The composed configuration.
        overrides: What the user typed, `key=value` each; shown beside a few settings that every
            run has.
        metrics: Final metrics, by name.
    """
    typed = dict(override.lstrip("+~").partition("=")[::2] for override in overrides)
    known = {
        key: OmegaConf.select(config, key, default=typed.get(key)) for key in [*_SHOWN, *typed]
    }
    shown = {
        key: value if isinstance(value, (bool, int, float, str)) else str(value)
        for key, value in known.items()
        if key not in _PLACES and value is not None and not isinstance(value, DictConfig)
    }
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams(shown, metrics, step=trainer.global_step)
            logger.save()
