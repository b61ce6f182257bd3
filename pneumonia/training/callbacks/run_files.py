"""Write into the run directory what is needed to understand, resume and repeat the run."""

import csv
import json
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from omegaconf import OmegaConf

from pneumonia.errors import DataError
from pneumonia.files import atomic_write, remove_partial
from pneumonia.labels import CLASSES
from pneumonia.training.resume import RunStart
from pneumonia.training.run_record import CONFIG_FILE, RECORD_FILE, commit


class RunFiles(Callback):
    """Write `validation.csv`, `run.json` and `config.yaml` before a fit.

    They are written once. `config.yaml` comes last and marks the directory as used.
    """

    def __init__(self, start: RunStart, config: Mapping[str, Any]) -> None:
        self.start = start
        self.config = config

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the files; a resumed run has them.

        Raises:
            DataError: If the data are not those of the run that is resumed or repeated.
        """
        if stage != "fit" or not trainer.is_global_zero:
            return
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        val, directory = datamodule.splits["val"], Path(self.start.directory)
        found = (datamodule.splits["train"] + val).fingerprint()
        if self.start.fingerprint not in (None, found):
            raise DataError(
                f"{datamodule.root} does not hold the images that the run was trained on"
                f" (fingerprint {self.start.fingerprint}, now {found}). Restore them, or start a"
                " new run without resume and repeat."
            )
        if self.start.resumed:
            remove_partial(directory)
            return
        rows = zip(val.paths, val.labels, val.patients, val.subtypes, strict=True)
        with atomic_write(directory / "validation.csv") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "patient", "subtype"])
            writer.writerows((p, CLASSES[label], patient, s) for p, label, patient, s in rows)
        record = {
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "overrides": list(self.start.overrides),
            "fingerprint": found,
            "commit": commit(),
            "python": platform.python_version(),
            "packages": dict(sorted((d.name, d.version) for d in distributions())),
        }
        with atomic_write(directory / RECORD_FILE) as file:
            json.dump(record, file, indent=2)
        with atomic_write(directory / CONFIG_FILE) as file:
            file.write(OmegaConf.to_yaml(OmegaConf.create(_relocatable(self.config, directory))))


def _relocatable(value: Any, directory: Path) -> Any:
    """Name the run directory by reference, because it may be moved."""
    if isinstance(value, Mapping):
        return {key: _relocatable(item, directory) for key, item in value.items()}
    if isinstance(value, list):
        return [_relocatable(item, directory) for item in value]
    if isinstance(value, str) and Path(value).is_relative_to(directory):
        return str(Path("${hydra:runtime.output_dir}", Path(value).relative_to(directory)))
    return value
