"""Sweeps: what all of them share, and the grid.

The state of a sweep is in the run records of its jobs, job N in the folder N. A killed sweep
continues with the same command and hydra.sweep.dir: finished jobs are skipped.
"""

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict
from pydantic import PositiveInt

from pneumonia.errors import ConfigError, TrainingError, first_line, sentence
from pneumonia.training.config import check_arguments, check_config
from pneumonia.training.errors import check_run
from pneumonia.training.pipeline import to_container
from pneumonia.training.run_record import RunSummary, read_run_summary

JOURNAL_FILE = "optuna.journal"

log = logging.getLogger(__name__)


class RecordingSweeper(Sweeper):
    """Base of the sweepers: checks jobs, runs them, reads their results from the run records.

    Args:
        params: Values by config key, in the syntax of Hydra's command line.
        n_jobs: Jobs that run at the same time where the launcher starts processes; None: all.
    """

    config: DictConfig
    launcher: Launcher
    uses_optuna = False

    def __init__(
        self, params: Mapping[str, Any] | None = None, n_jobs: PositiveInt | None = None
    ) -> None:
        self.params = dict(params or {})
        self.n_jobs = n_jobs

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Build the launcher; called by Hydra.

        Raises:
            ConfigError: If a setting of the sweeper is invalid or `hydra.sweep.subdir` was changed.
        """
        check_arguments("hydra.sweeper", to_container(config.hydra.sweeper), type(self))
        if OmegaConf.to_container(config.hydra.sweep)["subdir"] != "${hydra.job.num}":  # type: ignore[call-overload,index]
            raise ConfigError("hydra.sweep.subdir: expected ${hydra.job.num}. Leave it out.")
        self.config_loader, self.config = hydra_context.config_loader, config
        self.directory = Path(config.hydra.sweep.dir)
        self.in_process = config.hydra.runtime.choices["hydra/launcher"] == "basic"
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def parse(self, arguments: Sequence[str]) -> list[Override]:
        """Parse `params` and the command line, which takes precedence."""
        params = [f"{k}={'null' if value is None else value}" for k, value in self.params.items()]
        parser = OverridesParser.create(config_loader=self.config_loader)
        overrides = parser.parse_overrides([*params, *arguments])
        return list({override.get_key_element(): override for override in overrides}.values())

    def check(self, overrides: Sequence[str]) -> DictConfig:
        """Compose and check the configuration of one job, before any job runs.

        Raises:
            PneumoniaError: If a key is unknown or a value is not allowed.
            HydraException: If the configuration cannot be composed.
        """
        config = self.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = 0
            config.hydra.runtime.output_dir = str(self.directory / "0")
            HydraConfig.instance().set_config(config)
            del config["hydra"]
        check_config(to_container(config))
        check_run(config, sweep=True)
        return config

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from working on the same sweep.

        Raises:
            TrainingError: If one already does, or the directory holds another kind of sweep.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.directory / ".lock", timeout=0):
                has_journal = (self.directory / JOURNAL_FILE).exists()
                if has_journal != self.uses_optuna and (has_journal or self.job_numbers()):
                    raise TrainingError(
                        f"hydra.sweep.dir={self.directory} holds another kind of sweep. Give"
                        " another directory."
                    )
                OmegaConf.save(self.config, self.directory / "multirun.yaml")
                yield
        except Timeout as error:
            raise TrainingError(
                f"hydra.sweep.dir={self.directory} is in use by another process."
            ) from error

    def launch(self, jobs: Mapping[int, Sequence[str]]) -> dict[int, RunSummary]:
        """Run jobs, given as overrides by number, and return how each of them ended.

        Each is launched on its own: given several, submitit gives up on all once one is killed.

        Raises:
            TrainingError: If a job could not be started.
        """

        def run(number: int) -> str:
            try:
                self.launcher.launch([list(jobs[number])], initial_job_idx=number)
            except Exception as error:  # noqa: BLE001  any error of a scheduler
                return first_line(error)
            return ""

        if self.in_process:
            errors = [run(number) for number in jobs]
        else:
            with ThreadPool(self.n_jobs or len(jobs) or 1) as pool:
                errors = pool.map(run, jobs, chunksize=1)
        for number, error in zip(jobs, errors, strict=True):
            if error and not (self.directory / str(number)).exists():
                raise TrainingError(f"Job {number} could not be started: {error}")
        killed = RunSummary(status="failed", error="the job was killed")
        return {number: self.summary(number) or killed for number in jobs}

    def summary(self, number: int) -> RunSummary | None:
        """Read how a job ended; None if it was killed, is still running or never started."""
        try:
            return read_run_summary(self.directory / str(number))
        except (OSError, ValueError) as error:
            return RunSummary(status="failed", error=sentence(error))

    def job_numbers(self) -> list[int]:
        """Numbers of the jobs in the directory of the sweep."""
        return [int(path.name) for path in self.directory.glob("*/") if path.name.isdecimal()]

    def report(self, errors: Mapping[int, str], total: int, advice: str = "") -> None:
        """Say where to compare the runs, and which of `total` jobs failed.

        Raises:
            TrainingError: If a job failed.
        """
        log.info("Compare the runs: pneumonia runs %s", self.directory)
        if errors:
            found = [f"{self.directory / str(n)}: {e.rstrip('.')}." for n, e in errors.items()]
            raise TrainingError(
                f"{len(errors)} of {total} jobs failed. {' '.join([*found, advice])}".rstrip()
            )


class GridSweeper(RecordingSweeper):
    """Run every combination of the given values: `hydra/sweeper=grid`."""

    def sweep(self, arguments: list[str]) -> dict[int, RunSummary]:
        """Run every combination that has not finished yet; return how its job ended, by number.

        Raises:
            PneumoniaError: Before any job if a configuration is invalid; at the end if one failed.
        """
        values = [_values(override) for override in self.parse(arguments)]
        points = list(dict.fromkeys(itertools.product(*values)))
        for point in points:
            self.check(point)
        with self.locked():
            numbers = self.job_numbers()
            finished = {
                self._overrides(number)
                for number in numbers
                if (self.summary(number) or {}).get("status") == "finished"
            }
            remaining = [point for point in points if frozenset(point) not in finished]
            if len(remaining) < len(points):
                log.info("%d of %d jobs are finished", len(points) - len(remaining), len(points))
            summaries = self.launch(dict(enumerate(remaining, 1 + max(numbers, default=-1))))
        errors = {
            number: summary.get("error", "unknown error")
            for number, summary in summaries.items()
            if summary["status"] != "finished"
        }
        advice = f"Run them again: the same command with hydra.sweep.dir={self.directory}"
        self.report(errors, len(points), advice)
        return summaries

    def _overrides(self, number: int) -> frozenset[str]:
        file = self.directory / str(number) / ".hydra" / "overrides.yaml"
        return frozenset(map(str, OmegaConf.load(file))) if file.exists() else frozenset()


def _values(override: Override) -> list[str]:
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not override.is_discrete_sweep():
        raise ConfigError(
            f"{override.input_line}: a grid needs single values, such as 1e-3,1e-4. To search an"
            " interval, add hydra/sweeper=optuna."
        )
    return [f"{override.get_key_element()}={v}" for v in override.sweep_string_iterator()]
