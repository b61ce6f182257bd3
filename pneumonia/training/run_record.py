"""The run directory: claimed once, and what is written there for later readers."""

import csv
import json
import os
import platform
import statistics
import subprocess
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import distributions, version
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

import torch
from hydra.core.utils import JobReturn, JobStatus
from hydra.experimental.callback import Callback as HydraCallback
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from omegaconf import DictConfig, OmegaConf

from pneumonia.data.datamodule import ChestXrayDataModule
from pneumonia.data.manifest import Manifest
from pneumonia.errors import DataError, TrainingError, sentence
from pneumonia.evaluation.threshold import OperatingPoint
from pneumonia.files import atomic_write, remove_partial
from pneumonia.labels import CLASSES
from pneumonia.model.checkpoint import read_checkpoint
from pneumonia.training.callbacks.throughput import Throughput
from pneumonia.training.config import check_config
from pneumonia.training.distributed import is_rank_zero

_CHECKOUT = Path(__file__).parents[2]
_LONGEST_DIFF = 1_000_000

_VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "SLURM_JOB_ID",
    "SLURM_NTASKS",
    "WORLD_SIZE",
)
"""The only ones that are recorded: others may hold a secret."""


def provenance() -> dict[str, Any]:
    """What the outcome of a run may depend on beside its configuration; plain values."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "packages": dict(sorted({d.name: d.version for d in distributions()}.items())),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": gpus,
            "cuda": torch.version.cuda,
        },
    }


def commit() -> str:
    """Commit of the checkout, with `-dirty` behind it if files differ; `unknown` without git."""
    return _git("describe", "--always", "--dirty", "--abbrev=40").strip() or "unknown"


def changes() -> str:
    """How the checkout's files differ from the commit, as `git diff` says; at most 1 MB."""
    diff = _git("diff", "HEAD", "--", ".")
    if len(diff) <= _LONGEST_DIFF:
        return diff
    return f"{diff[:_LONGEST_DIFF]}\n[cut: the whole is {len(diff)} characters]\n"


def differences(recorded: Mapping[str, Any]) -> list[str]:
    """What is not as it was when a run was recorded, in words.

    Args:
        recorded: As `provenance` gave it.
    """
    present = provenance()
    found = [
        f"{name} was {recorded.get(name)} and is {present[name]}"
        for name in ("commit", "python")
        if recorded.get(name) != present[name]
    ]
    before, now = recorded.get("packages", {}), present["packages"]
    return found + [
        f"{name} was {before.get(name, 'missing')} and is {now.get(name, 'missing')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def _git(*words: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603  fixed commands
            ["git", *words],  # noqa: S607
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
            check=True,
            cwd=_CHECKOUT,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


_PACKAGES = ("torch", "torchvision", "timm", "lightning", "torchmetrics", "hydra-core", "numpy")


def collect_metadata(
    config: dict[str, Any], datamodule: ChestXrayDataModule, trainer: Trainer, started: datetime
) -> dict[str, Any]:
    """Collect what a reader of the report asks: which data, which split, trained how.

    Args:
        config: The composed and resolved configuration.
        datamodule: After its `setup`.
        trainer: After its fit.
        started: When the run started, with a time zone.

    Returns:
        Nested dictionaries of text and numbers: `data`, `holdout` and `training`.
    """
    splits = {name: datamodule.splits[name] for name in ("train", "val")}
    whole = splits["train"] + splits["val"]
    holdout = datamodule.validation_split
    return {
        "data": {
            "root": str(datamodule.root),
            "synthetic": datamodule.synthetic,
            "fingerprint": whole.fingerprint(),
            "splits": {name: _counts(samples) for name, samples in splits.items()},
        },
        "holdout": {
            "strategy": holdout.strategy,
            "fraction": holdout.fraction,
            "seed": holdout.seed,
        },
        "training": {
            "config": OmegaConf.to_yaml(OmegaConf.create(config)),
            "started": started.isoformat(timespec="seconds"),
            "seconds": round((datetime.now(started.tzinfo) - started).total_seconds(), 1),
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
            "commit": commit(),
            "versions": {name: version(name) for name in _PACKAGES},
            "hardware": _hardware(trainer),
        },
    }


def _counts(samples: Manifest) -> dict[str, int]:
    normal, pneumonia = samples.class_counts()
    subtypes = {
        str(name): int((samples.subtypes == name).sum())
        for name in sorted(set(samples.subtypes[samples.labels == 1]))
    }
    counts = {"images": len(samples), "patients": len(set(samples.patients))}
    return counts | {CLASSES[0]: normal, CLASSES[1]: pneumonia} | subtypes


def _hardware(trainer: Trainer) -> str:
    device = trainer.strategy.root_device
    if device.type == "cuda":
        return f"{trainer.world_size} x {torch.cuda.get_device_name(device)}"
    return f"{trainer.world_size} x {device.type}, {os.cpu_count()} cores, {platform.machine()}"


SUMMARY_FILE = "summary.json"


class RunSummary(TypedDict, total=False):
    """What `summary.json` holds; a failed run has only `status`, `error` and `traceback`."""

    status: Literal["finished", "failed"]
    monitor: str
    mode: Literal["min", "max"]
    score: float
    """The monitored metric of the best checkpoint, on the hold-out."""
    sensitivity: float
    specificity: float
    """Both promised by the hold-out at the threshold that it chose."""
    threshold: float
    started: str
    """ISO 8601, with a time zone."""
    seconds: float
    """Of the fit; calibration and test come after."""
    images_per_second: float | None
    """In training: the median over the epochs."""
    epochs: int
    steps: int
    checkpoint: str
    """Relative to the run directory."""
    error: str
    """One sentence."""
    traceback: str


def write_run_summary(directory: str | Path, ending: RunSummary) -> None:
    """Write `summary.json`, whole or not at all."""
    with atomic_write(Path(directory) / SUMMARY_FILE) as file:
        json.dump(ending, file, indent=2)
        file.write("\n")


def read_run_summary(directory: str | Path) -> RunSummary | None:
    """Read what `write_run_summary` wrote.

    Args:
        directory: A run directory.

    Returns:
        None where a run has not ended, was killed, or never started.

    Raises:
        ValueError: If the file is damaged.
        OSError: If it cannot be read.
    """
    try:
        found = json.loads((Path(directory) / SUMMARY_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{SUMMARY_FILE} is damaged: {error}") from error
    if not isinstance(found, dict) or found.get("status") not in ("finished", "failed"):
        raise ValueError(f"{SUMMARY_FILE} is damaged: it does not say how the run ended.")
    return cast(RunSummary, cast(Any, found))


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
            remove_partial(self.directory)
            return
        rows = zip(val.paths, val.labels, val.patients, val.subtypes, strict=True)
        with atomic_write(self.directory / HOLDOUT_FILE) as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "patient", "subtype"])
            writer.writerows((p, CLASSES[label], patient, s) for p, label, patient, s in rows)
        with atomic_write(self.directory / CHANGES_FILE) as file:
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
        with atomic_write(self.directory / CONFIG_FILE) as file:
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
        raise damaged_record_error(file)
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
        check_config(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]  # it is told
    except Exception as error:  # yaml, OmegaConf and Python have each their own for a damaged file
        raise damaged_record_error(file) from error
    return cast(DictConfig, config)


def damaged_record_error(file: Path) -> TrainingError:
    """What to say of a run whose record cannot be read.

    Args:
        file: The damaged one.
    """
    return TrainingError(
        f"{file} is damaged, so that the run cannot be gone on with or repeated; bring the file"
        f" back, or begin a new run (ckpt_path={file.parent}/checkpoints/last.ckpt takes its"
        " weights along)."
    )


def mark_finished(trainer: Trainer, directory: str | Path) -> None:
    """Note that nothing of the run is missing.

    Args:
        trainer: The first of its processes writes.
        directory: The run directory.
    """
    if trainer.is_global_zero:
        _write_record(Path(directory), read_record(directory) | {"finished": _now()})


def refuse_used_directory(directory: str | Path) -> None:
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
    with atomic_write(directory / RECORD_FILE) as file:
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


def write_finished_summary(
    trainer: Trainer,
    directory: str | Path,
    config: DictConfig,
    checkpoint: str,
    score: float,
    point: OperatingPoint,
) -> None:
    """Write `summary.json` of a run that finished.

    Args:
        trainer: After its fit.
        directory: The run directory.
        config: The composed configuration.
        checkpoint: The sealed checkpoint, whose metadata say how long it took.
        score: Its monitored metric.
        point: Its operating point.
    """
    if not trainer.is_global_zero:
        return
    training = read_checkpoint(checkpoint)["metadata"]["training"]
    rates = [rate for c in trainer.callbacks if isinstance(c, Throughput) for rate in c.rates]  # type: ignore[attr-defined]
    write_run_summary(
        directory,
        RunSummary(
            status="finished",
            monitor=config.monitor,
            mode=config.mode,
            score=score,
            sensitivity=point.sensitivity,
            specificity=point.specificity,
            threshold=point.threshold,
            started=training["started"],
            seconds=training["seconds"],
            images_per_second=round(statistics.median(rates), 1) if rates else None,
            epochs=training["epochs"],
            steps=training["steps"],
            checkpoint=str(Path(checkpoint).relative_to(directory)),
        ),
    )


def record_failure(directory: str | Path, error: BaseException) -> None:
    """Write `summary.json` of a run that failed, and why.

    Args:
        directory: The run directory.
        error: What ended it.
    """
    text = "".join(traceback.format_exception(error))
    write_run_summary(directory, RunSummary(status="failed", error=sentence(error), traceback=text))


class FailureRecorder(HydraCallback):
    """Hydra's callback that writes `summary.json` of a run that failed, and why.

    A run that was killed writes nothing. A directory that held a run before the job started is
    left as it was.
    """

    def __init__(self) -> None:
        self._directory: Path | None = None

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Note whether the directory is this run's own."""
        directory = Path(config.hydra.runtime.output_dir)
        own = is_rank_zero() and not (directory / CONFIG_FILE).exists()
        self._directory = directory if own else None

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write down the error of a failed job."""
        if job_return.status != JobStatus.FAILED or self._directory is None:
            return
        record_failure(self._directory, job_return._return_value)  # noqa: SLF001  the property raises
