"""A hyperparameter search with Optuna, which continues after a kill.

The study is a journal in the directory of the sweep, and trial N is job N. hydra-optuna-sweeper
needs Optuna 2 and starts all its trials again when it is restarted.
"""
# ruff: noqa: PLC0415  Optuna is an optional extra

from __future__ import annotations

import itertools
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from hydra.core.override_parser.types import IntervalSweep, Override, Sweep
from hydra.core.plugins import Plugins
from pydantic import NonNegativeInt, PositiveInt

from pneumonia.errors import ConfigError, ExtraError, TrainingError
from pneumonia.training.run_record import RunSummary
from pneumonia.training.sweep.grid import JOURNAL_FILE, GridSweeper, RecordingSweeper

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_NOT_SEARCHABLE = ("seed", "monitor", "mode", "test", "data.split")

Space = dict[str, "BaseDistribution"]

log = logging.getLogger(__name__)


class OptunaSweeper(RecordingSweeper):
    """Trials chosen by the tree-structured Parzen estimator: `hydra/sweeper=optuna`.

    Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011, section 4.

    Args:
        n_trials: Trials to finish or fail; those killed together with the sweep do not count and
            stay in the journal as running.
        n_jobs: Trials chosen at the same time.
        n_startup: Trials drawn at random before the estimator chooses.
        seed: Seed of the sampler.
        params: The search space, by config key.
    """

    uses_optuna = True

    def __init__(
        self,
        n_trials: PositiveInt,
        n_jobs: PositiveInt = 1,
        n_startup: NonNegativeInt = 10,
        seed: NonNegativeInt = 0,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(params, n_jobs)
        self.n_trials, self.batch, self.n_startup, self.seed = n_trials, n_jobs, n_startup, seed

    def sweep(self, arguments: list[str]) -> list[FrozenTrial]:
        """Run trials until `n_trials` have finished or failed, and return all that have.

        Raises:
            PneumoniaError: Before any trial if the search space is invalid or the directory holds
                another sweep; at the end if a trial failed.
        """
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
            while (remaining := self.n_trials - len(_ended(study))) > 0:
                trials = [study.ask(space) for _ in range(min(remaining, self.batch))]
                jobs = {trial.number: [*fixed, *_overrides(trial.params)] for trial in trials}
                for number, summary in self.launch(jobs).items():
                    self._tell(study, number, summary)
            return self._finish(study)

    def _load_study(self, fixed: list[str], space: Space) -> Study:
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        journal = self.directory / JOURNAL_FILE
        if journal.exists():  # a kill while writing leaves half a line and a lock
            os.truncate(journal, journal.read_bytes().rfind(b"\n") + 1)
            journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
        study = optuna.create_study(
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(journal))),
            study_name="sweep",
            direction="maximize" if self.config.mode == "max" else "minimize",
            load_if_exists=True,
        )
        study.sampler = optuna.samplers.TPESampler(
            seed=self.seed + len(study.trials),  # else it draws the same trials again
            n_startup_trials=self.n_startup,
            constant_liar=self.batch > 1,  # makes the trials of one batch differ
        )
        lines = [*fixed, *(f"{key}: {distribution}" for key, distribution in space.items())]
        search = {f"monitor={self.config.monitor}", f"mode={self.config.mode}", *lines}
        if different := search ^ set(study.user_attrs.get("search", search)):
            raise TrainingError(
                f"hydra.sweep.dir={self.directory} holds a search with other settings"
                f" ({', '.join(sorted(different))}). Use the same ones or another directory."
            )
        study.set_user_attr("search", sorted(search))
        # Runs that finished although the sweep was killed.
        for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):
            if summary := self.summary(trial.number):
                self._tell(study, trial.number, summary)
        return study

    def _tell(self, study: Study, number: int, summary: RunSummary) -> None:
        from optuna.trial import TrialState

        score = summary.get("score", math.nan)
        if summary["status"] == "finished" and math.isfinite(score):
            study.tell(number, score)
            log.info(
                "trial %d: %s %.4f (best: %.4f, trial %d)",
                number, self.config.monitor, score, study.best_value, study.best_trial.number,
            )  # fmt: skip
        else:
            study.tell(number, state=TrialState.FAIL)
            log.error("trial %d failed: %s", number, self._error(number))

    def _error(self, number: int) -> str:
        summary = self.summary(number)
        if summary is None:
            return "the job was killed"
        return summary.get("error", f"{self.config.monitor} is {summary.get('score')}")

    def _finish(self, study: Study) -> list[FrozenTrial]:
        trials = _ended(study)
        errors = {trial.number: self._error(trial.number) for trial in trials if not trial.values}
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
    """Divide overrides into fixed ones and a search space, by key.

    Intervals are searched as numbers, `int(interval(...))` as integers, a choice or `range` as
    separate values without an order.

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
    """A few trials that together use both ends of every interval and every category."""
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
        from optuna import distributions
    except ImportError as error:
        raise ExtraError("hydra/sweeper=optuna", "sweep") from error
    value = override.value()
    tags = value.tags if isinstance(value, Sweep) else set()
    if tags - ({"log"} if isinstance(value, IntervalSweep) else set()):
        raise ValueError("expected no tag, or tag(log, interval(low, high)).")
    if not isinstance(value, IntervalSweep):
        words = dict.fromkeys(override.sweep_string_iterator())
        return distributions.CategoricalDistribution(list(words))
    low, high = cast(float, value.start), cast(float, value.end)
    if isinstance(low, int) and isinstance(high, int):
        return distributions.IntDistribution(low, high, log=bool(tags))
    return distributions.FloatDistribution(low, high, log=bool(tags))


def _overrides(params: Mapping[str, Any]) -> list[str]:
    return [f"{key}={value}" for key, value in params.items()]


def _ended(study: Study) -> list[FrozenTrial]:
    return [trial for trial in study.trials if trial.state.is_finished()]
