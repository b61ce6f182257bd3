"""A hyperparameter search with Optuna, which continues after a kill.

The study is a journal in the directory of the sweep, and trial N is job N. hydra-optuna-sweeper
needs Optuna 2 and starts all its trials again when it is restarted.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra.core.override_parser.types import IntervalSweep, Override, Sweep
from hydra.core.plugins import Plugins

from pneumonia.errors import ConfigError, ExtraError, TrainingError
from pneumonia.training.run_record import RunSummary
from pneumonia.training.sweep.grid import (
    JOURNAL_FILE,
    GridSweeper,
    RecordingSweeper,
    check_integer,
)

if TYPE_CHECKING:  # an optional extra
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_NOT_SEARCHABLE = ("seed", "monitor", "mode", "test", "data.split")
_KILLED = "killed"
"""Attribute of a study: numbers of the trials that were killed together with the sweep."""

Space = dict[str, "BaseDistribution"]

log = logging.getLogger(__name__)


class OptunaSweeper(RecordingSweeper):
    """Trials chosen by the tree-structured Parzen estimator: `hydra/sweeper=optuna`.

    Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011, section 4.

    Args:
        n_trials: Trials to finish or fail; those killed together with the sweep do not count.
        n_jobs: Trials chosen at the same time.
        n_startup: Trials drawn at random before the estimator chooses.
        seed: Seed of the sampler.
        params: The search space, by config key.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int = 1,
        n_startup: int = 10,
        seed: int = 0,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(params, n_jobs)
        self.n_trials, self.batch, self.n_startup, self.seed = n_trials, n_jobs, n_startup, seed

    def sweep(self, arguments: list[str]) -> list[FrozenTrial]:
        """Run trials until `n_trials` have finished or failed.

        Args:
            arguments: Overrides from the command line.

        Returns:
            All trials that finished or failed, in this process or before.

        Raises:
            PneumoniaError: Before any trial if the search space is invalid or the directory holds
                another sweep; at the end if a trial failed.
        """
        for name, minimum in {"n_trials": 1, "n_jobs": 1, "n_startup": 0, "seed": 0}.items():
            check_integer(name, getattr(self, name), minimum)
        fixed, space = parse_space(self.parse(arguments))
        for overrides in corners(fixed, space):
            config = self.check(overrides)
            if (config.monitor, config.mode) != (self.config.monitor, self.config.mode):
                raise ConfigError(
                    f"{' '.join(overrides)}: monitor={config.monitor} mode={config.mode} differ"
                    f" from monitor={self.config.monitor} mode={self.config.mode} of the search."
                    " Scores of different metrics cannot be compared."
                )
        with self.locked():
            study = self._load_study(fixed, space)
            self._settle_interrupted(study)
            while (remaining := self.n_trials - len(_ended(study))) > 0:
                trials = [study.ask(space) for _ in range(min(remaining, self.batch))]
                jobs = {trial.number: [*fixed, *_overrides(trial.params)] for trial in trials}
                for number, summary in self.launch(jobs).items():
                    self._tell(study, number, summary)
            return self._finish(study)

    def _load_study(self, fixed: list[str], space: Space) -> Study:
        import optuna  # noqa: PLC0415  an optional extra
        from optuna.storages import JournalStorage  # noqa: PLC0415
        from optuna.storages.journal import JournalFileBackend  # noqa: PLC0415

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        journal = self.directory / JOURNAL_FILE
        if not journal.exists() and self.job_numbers():
            raise TrainingError(
                f"hydra.sweep.dir={self.directory} holds runs, but no search of Optuna. Give"
                " another one."
            )
        _repair(journal)
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            study_name="sweep",
            direction="maximize" if self.config.mode == "max" else "minimize",
            load_if_exists=True,
        )
        count = len(study.get_trials(deepcopy=False))
        study.sampler = optuna.samplers.TPESampler(
            seed=self.seed + count,  # a continued search does not draw the first trials again
            n_startup_trials=self.n_startup,
            constant_liar=self.batch > 1,  # makes the trials of one batch differ
        )
        lines = {*fixed, *(f"{key}: {distribution}" for key, distribution in space.items())}
        search = sorted({f"monitor={self.config.monitor}", f"mode={self.config.mode}", *lines})
        recorded = study.user_attrs.get("search")
        if recorded is None:
            study.set_user_attr("search", search)
        elif recorded != search:
            raise TrainingError(
                f"hydra.sweep.dir={self.directory} holds another search. It was started with"
                f" {', '.join(sorted(set(recorded) - set(search))) or 'less'}; now it is"
                f" {', '.join(sorted(set(search) - set(recorded))) or 'less'}. Use the same"
                " settings or another directory."
            )
        return study

    def _settle_interrupted(self, study: Study) -> None:
        """Record the result of trials that were running when the sweep was killed."""
        from optuna.trial import TrialState  # noqa: PLC0415  an optional extra

        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            summary = self.summary(trial.number)
            if summary is None:
                killed = study.user_attrs.get(_KILLED, [])
                study.set_user_attr(_KILLED, [*killed, trial.number])
                summary = RunSummary(status="failed", error="killed together with the sweep")
            self._tell(study, trial.number, summary)

    def _tell(self, study: Study, number: int, summary: RunSummary) -> None:
        from optuna.trial import TrialState  # noqa: PLC0415  an optional extra

        score = summary.get("score", math.nan)
        if summary["status"] == "finished" and math.isfinite(score):
            study.tell(number, score)
            log.info(
                "trial %d: %s %.4f (best: %.4f, trial %d)",
                number, self.config.monitor, score, study.best_value, study.best_trial.number,
            )  # fmt: skip
        else:
            study.tell(number, state=TrialState.FAIL)
            log.error("trial %d failed: %s", number, self._error(number, summary))

    def _error(self, number: int, summary: RunSummary | None) -> str:
        if summary is None:
            return "the job was killed"
        return summary.get("error", f"{self.config.monitor} is {summary.get('score')}")

    def _finish(self, study: Study) -> list[FrozenTrial]:
        trials = _ended(study)
        errors = {
            trial.number: self._error(trial.number, self.summary(trial.number))
            for trial in trials
            if trial.value is None
        }
        if len(errors) < len(trials):
            best = study.best_trial
            log.info(
                "best: trial %d, %s %.4f with %s\nits run: %s",
                best.number, self.config.monitor, study.best_value,
                " ".join(_overrides(best.params)), self.directory / str(best.number),
            )  # fmt: skip
        self.report(errors, len(trials))
        return trials


def parse_space(overrides: Sequence[Override]) -> tuple[list[str], Space]:
    """Divide overrides into fixed ones and a search space.

    `int(interval(...))` and a `range` of integers give integers. `range` stops before its end, as
    in a grid.

    Args:
        overrides: Parsed by Hydra.

    Returns:
        The fixed overrides, and the distributions by key; categories are in override syntax.

    Raises:
        ConfigError: If there is nothing to search, or an override cannot be searched.
        ExtraError: If Optuna is not installed.
    """
    fixed, space = list[str](), Space()
    for override in overrides:
        line = str(override.input_line)
        key = override.key_or_group
        if not override.is_sweep_override():
            fixed.append(line)
        elif key in _NOT_SEARCHABLE or key.startswith("data.split."):
            raise ConfigError(
                f"{line}: {key} cannot be searched, because the scores of the trials would not be"
                " comparable. Set one value."
            )
        else:
            try:
                space[override.get_key_element()] = _distribution(override)
            except ValueError as error:
                raise ConfigError(f"{line}: {error}") from error
    if not space:
        raise ConfigError(
            "hydra.sweeper.params: nothing to search. Give an interval there or on the command"
            " line, such as 'model.optimizer.lr=tag(log,interval(1e-4,1e-2))'."
        )
    return fixed, space


def corners(fixed: Sequence[str], space: Space) -> Iterator[list[str]]:
    """A few trials that together use both ends of every interval and every category.

    Args:
        fixed: Overrides of every trial.
        space: Distributions by key.
    """
    ends = [
        [f"{k}={v}" for v in getattr(d, "choices", None) or (cast(Any, d).low, cast(Any, d).high)]
        for k, d in space.items()
    ]
    for values in itertools.zip_longest(*ends):
        yield [*fixed, *(v or options[0] for v, options in zip(values, ends, strict=True))]


def register_sweepers() -> None:
    """Make `hydra/sweeper=grid` and `hydra/sweeper=optuna` known to Hydra.

    Hydra accepts only plugins that were registered under a name in the package `hydra_plugins`.
    """
    for sweeper in (GridSweeper, OptunaSweeper):
        module, sweeper.__module__ = sweeper.__module__, "hydra_plugins.pneumonia"
        Plugins.instance().register(sweeper)
        sweeper.__module__ = module


def _distribution(override: Override) -> BaseDistribution:
    try:
        from optuna import distributions  # noqa: PLC0415  an optional extra
    except ImportError as error:
        raise ExtraError("hydra/sweeper=optuna", "sweep") from error
    value = override.value()
    tags = value.tags if isinstance(value, Sweep) else set()
    if isinstance(value, IntervalSweep):
        if tags - {"log"}:
            raise ValueError(f"unknown tag {', '.join(sorted(tags))}; expected log.")
        low, high = cast(float, value.start), cast(float, value.end)
        if low >= high:
            raise ValueError(f"the lower end {low:g} must be less than the upper end {high:g}.")
        if isinstance(low, int) and isinstance(high, int):
            return distributions.IntDistribution(low, high, log=bool(tags))
        return distributions.FloatDistribution(low, high, log=bool(tags))
    if tags:
        raise ValueError("only intervals can have a tag.")
    words = list(dict.fromkeys(override.sweep_string_iterator()))
    if not words:
        raise ValueError("the range is empty.")
    if override.is_choice_sweep() or len(words) == 1:
        return distributions.CategoricalDistribution(words)
    numbers = sorted(cast(Iterator[float], override.sweep_iterator()))
    low, high, step = numbers[0], numbers[-1], numbers[1] - numbers[0]
    if all(isinstance(number, int) for number in numbers):
        return distributions.IntDistribution(int(low), int(high), step=int(step))
    step = round(step, 12)  # 0.3 - 0.2 is not 0.1
    return distributions.FloatDistribution(
        low, round(low + step * (len(numbers) - 1), 12), step=step
    )


def _overrides(params: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in params.items()]


def _ended(study: Study) -> list[FrozenTrial]:
    killed = study.user_attrs.get(_KILLED, [])
    trials = study.get_trials(deepcopy=False)
    return [t for t in trials if t.state.is_finished() and t.number not in killed]


def _repair(journal: Path) -> None:
    """Remove what a kill while writing leaves: a stale lock and an incomplete last line."""
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if journal.exists():
        os.truncate(journal, journal.read_bytes().rfind(b"\n") + 1)
