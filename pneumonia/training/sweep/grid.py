"""Many runs from one command: what every sweep has, and the grid.

Where a sweep stands is on disk alone, in the endings of its runs and, with Optuna, in a journal:
the same command in the same directory goes on after a kill.
"""

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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

from pneumonia.errors import ConfigError, TrainingError, sentence
from pneumonia.training.config import check_config
from pneumonia.training.distributed import check_strategy
from pneumonia.training.errors import check_run
from pneumonia.training.pipeline import to_container
from pneumonia.training.run_record import (
    SUMMARY_FILE,
    RunSummary,
    read_run_summary,
    refuse_used_directory,
)

JOURNAL_FILE = "optuna.journal"

log = logging.getLogger(__name__)


class Sweep(Sweeper):
    """Compose, check and launch the runs of a sweep.

    Args:
        params: Values to go through, by key, in the words of Hydra's command line.
    """

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.params = dict(params or {})

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take over Hydra's parts; called by Hydra.

        Raises:
            ConfigError: If this is one of several processes, each of which would be a sweep.
        """
        check_strategy({}, sweep=True)
        self.context, self.master = hydra_context, config
        self.directory = Path(config.hydra.sweep.dir)  # resolved once: every job copies it
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def overrides(self, arguments: Sequence[str]) -> list[Override]:
        """What the configuration and the command line ask for; the command line wins."""
        parser = OverridesParser.create(config_loader=self.context.config_loader)
        words = [
            f"{key}={'null' if value is None else value}" for key, value in self.params.items()
        ]
        parsed = parser.parse_overrides([*words, *arguments])
        return list({override.get_key_element(): override for override in parsed}.values())

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the sweep's directory, against a second process that goes on with it.

        Raises:
            TrainingError: If another process holds it.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.directory / ".lock", timeout=0):
                OmegaConf.save(self.master, self.directory / "multirun.yaml")
                yield
        except Timeout as error:
            raise TrainingError(
                f"{self.directory}: another process works on this sweep; wait for it or end it."
            ) from error

    def compose(self, overrides: Sequence[str], number: int) -> tuple[DictConfig, Path]:
        """Configuration and directory of one job."""
        config = self.context.config_loader.load_sweep_config(self.master, list(overrides))
        with open_dict(config):
            config.hydra.job.id = config.hydra.job.num = number
        with _as_hydra_config(config):
            return config, self.directory / config.hydra.sweep.subdir

    def vet(self, overrides: Sequence[str]) -> None:
        """Refuse what could only fail, before any job runs.

        Raises:
            PneumoniaError: If a setting is unknown, of the wrong type, or impossible.
            HydraException: If it cannot be composed.
        """
        config, directory = self.compose(overrides, 0)
        with open_dict(config):
            config.hydra.runtime.output_dir = str(directory)
        with _as_hydra_config(config):
            settings = to_container(config)
        del settings["hydra"]
        check_config(settings)
        check_run(OmegaConf.create(settings), sweep=True)
        if (settings["monitor"], settings["mode"]) != (self.master.monitor, self.master.mode):
            raise ConfigError(
                f"a job would monitor {settings['monitor']} ({settings['mode']}) and the sweep"
                f" {self.master.monitor} ({self.master.mode}); figures of different kinds cannot be"
                " ranked: give every job the same monitor and mode."
            )

    def launch(
        self, jobs: Sequence[Sequence[str]], directories: Sequence[Path], first: int
    ) -> list[RunSummary]:
        """Run jobs, and read how they ended.

        Args:
            jobs: Overrides of each.
            directories: Where `compose` says that each will go.
            first: Number of the first job; the others follow.

        Returns:
            One ending for each; a job that was killed, as schedulers do, has failed.

        Raises:
            TrainingError: If a directory holds a run, or the launcher itself could not go on.
        """
        if len(set(directories)) < len(directories):
            raise TrainingError(
                "several jobs would go into the same directory; let hydra.sweep.subdir contain"
                " ${hydra.job.num}."
            )
        for directory in directories:
            refuse_used_directory(directory)
        try:
            self.launcher.launch(jobs, initial_job_idx=first)
        except Exception as error:
            raise TrainingError(
                f"the launcher stopped: {sentence(error).rstrip('.')}; once no job of it runs any"
                f" more, the same command with hydra.sweep.dir={self.directory} goes on."
            ) from error
        unknown = RunSummary(status="failed", error="it was killed, or ended without a word")
        return [job_summary(directory) or unknown for directory in directories]


def job_summary(directory: Path) -> RunSummary | None:
    """How a job ended; None if it was killed, still runs or never started."""
    try:
        return read_run_summary(directory)
    except (OSError, ValueError) as error:
        return RunSummary(status="failed", error=sentence(error))


class GridSweeper(Sweep):
    """Every combination of the values given; `hydra/sweeper=grid`.

    Args:
        params: Values to go through, by key: `a,b`, `choice(a,b)`, `range(start,stop,step)`.
        max_batch_size: Jobs handed to the launcher at once; None: all.
    """

    def __init__(
        self, params: Mapping[str, Any] | None = None, max_batch_size: int | None = None
    ) -> None:
        super().__init__(params)
        self.max_batch_size = max_batch_size

    def sweep(self, arguments: list[str]) -> list[RunSummary]:
        """Run every combination that has not finished in the directory yet.

        Args:
            arguments: Overrides from the command line.

        Returns:
            How the jobs ended, of those that ran now.

        Raises:
            PneumoniaError: Before any job, if one of them could only fail; after all, if some
                failed.
        """
        points = [list(p) for p in itertools.product(*map(_values, self.overrides(arguments)))]
        with self.claimed():
            if (self.directory / JOURNAL_FILE).exists():
                raise TrainingError(
                    f"{self.directory} holds a sweep by Optuna; name another hydra.sweep.dir."
                )
            finished = _finished(self.directory)
            left = [point for point in points if tuple(sorted(point)) not in finished]
            if len(left) < len(points):
                log.info("%d of %d jobs have finished", len(points) - len(left), len(points))
            for point in left:
                self.vet(point)
            numbers = [int(p.name) for p in self.directory.iterdir() if p.name.isdecimal()]
            first, endings = max(numbers, default=-1) + 1, list[RunSummary]()
            directories = [self.compose(point, first + i)[1] for i, point in enumerate(left)]
            size = self.max_batch_size or len(points)
            for start in range(0, len(left), size):
                batch = slice(start, start + size)
                endings += self.launch(left[batch], directories[batch], first + start)
        failed = [
            f"{directory} ({ending['error'].rstrip('.')})"
            for directory, ending in zip(directories, endings, strict=True)
            if ending["status"] == "failed"
        ]
        log.info("Compare: pneumonia runs %s", self.directory)
        if failed:
            raise TrainingError(
                f"{len(failed)} of {len(points)} jobs failed: {'; '.join(failed)}; the same command"
                f" with hydra.sweep.dir={self.directory} runs them again."
            )
        return endings


def _values(override: Override) -> list[str]:
    """One override as the words of each of its values."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if not override.is_discrete_sweep():
        raise ConfigError(
            f"{override.input_line}: a grid needs single values, such as 1e-3,1e-4; intervals are"
            " for hparams_search=optuna."
        )
    key = override.get_key_element()
    return [f"{key}={value}" for value in override.sweep_string_iterator()]


def _finished(directory: Path) -> set[tuple[str, ...]]:
    """Overrides of the jobs that have finished in a sweep's directory."""
    found = set()
    for file in directory.rglob(SUMMARY_FILE):
        ending = job_summary(file.parent)
        if ending and ending["status"] == "finished":
            overrides = OmegaConf.load(file.parent / ".hydra" / "overrides.yaml")
            found.add(tuple(sorted(map(str, overrides))))
    return found


@contextmanager
def _as_hydra_config(config: DictConfig) -> Iterator[None]:
    """References to `hydra:` go to this configuration meanwhile."""
    instance = HydraConfig.instance()
    before = instance.cfg
    instance.set_config(config)
    OmegaConf.set_readonly(config.hydra, False)
    try:
        yield
    finally:
        instance.cfg = before
