"""Settings chosen by Optuna, in a sweep that a kill does not end.

The study is a journal in the sweep's directory, and a trial's number is its run's: numbers never
come twice, so no directory does. hydra-optuna-sweeper needs a release of Optuna from 2022, and
adds all its trials again whenever it is restarted.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from hydra.core.override_parser import types

from pneumonia.errors import ConfigError, sentence

if TYPE_CHECKING:  # an extra
    from optuna.distributions import BaseDistribution

import logging
import math
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pneumonia.errors import TrainingError
from pneumonia.training.run_record import CONFIG_FILE, RunSummary
from pneumonia.training.sweep.grid import (
    JOURNAL_FILE,
    Sweep,
    job_summary,
)

if TYPE_CHECKING:  # an extra
    from optuna import Study
    from optuna.trial import FrozenTrial


_NEVER = {
    "seed": "the luckiest seed would win; fix it, and train the best settings with several seeds",
    "monitor": "figures of different kinds cannot be ranked",
    "mode": "figures of different kinds cannot be ranked",
    "test": "the test split must not choose settings",
}
_HOLDOUT = "the easiest hold-out would win; fix it, and check the best settings on other folds"


@dataclass(frozen=True)
class Space:
    """What a search holds fixed, and what it draws from.

    Attributes:
        fixed: Overrides that every trial has.
        distributions: By key as typed, `+` and all; categories are the words of an override.
    """

    fixed: list[str]
    distributions: dict[str, BaseDistribution]

    def words(self, values: dict[str, Any]) -> list[str]:
        """The overrides of one trial.

        Args:
            values: By key, drawn from the distributions.
        """
        return [*self.fixed, *(f"{key}={value}" for key, value in values.items())]

    def corners(self) -> Iterator[list[str]]:
        """Overrides that together have both ends of every interval, and every category."""
        ends = {key: _ends(distribution) for key, distribution in self.distributions.items()}
        for values in itertools.zip_longest(*ends.values()):
            drawn = {
                key: ends[key][0] if value is None else value
                for key, value in zip(ends, values, strict=True)
            }
            yield self.words(drawn)


def parse_space(overrides: Sequence[types.Override]) -> Space:
    """Divide overrides into fixed ones and a search space.

    Integers come from `int(interval(...))` and from a `range` of integers; `range` stops before
    its end, as in a grid.

    Args:
        overrides: Parsed by Hydra.

    Raises:
        ConfigError: If there is nothing to search, or a distribution is impossible or unsound.
    """
    fixed, distributions = [], {}
    for override in overrides:
        line = str(override.input_line)
        if not override.is_sweep_override():
            fixed.append(line)
            continue
        key = override.key_or_group
        reason = _HOLDOUT if key.startswith("data.split") else _NEVER.get(key)
        if reason:
            raise ConfigError(f"{line} cannot be searched: {reason}.")
        try:
            distributions[override.get_key_element()] = _distribution(override)
        except ValueError as error:
            raise ConfigError(f"{line} cannot be searched: {sentence(error)}") from error
    if not distributions:
        raise ConfigError(
            "there is nothing to search; give hydra.sweeper.params, or an interval on the command"
            " line such as 'model.optimizer.lr=tag(log,interval(1e-4,1e-2))'."
        )
    return Space(fixed, distributions)


def _distribution(override: types.Override) -> BaseDistribution:
    from optuna.distributions import (  # noqa: PLC0415  an extra
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    sweep = override.value()
    tags = sweep.tags if isinstance(sweep, types.Sweep) else set()
    if tags - {"log"} or (tags and not isinstance(sweep, types.IntervalSweep)):
        raise ValueError(f"tag({', '.join(sorted(tags))}) is unknown here; intervals take log.")
    if isinstance(sweep, types.IntervalSweep):
        low, high = cast(float, sweep.start), cast(float, sweep.end)
        if low >= high:
            raise ValueError(f"its lower end {low:g} must be less than its upper end {high:g}.")
        if tags and low <= 0:
            raise ValueError(f"on a logarithmic scale its lower end {low:g} must be positive.")
        if isinstance(low, int) and isinstance(high, int):
            return IntDistribution(low, high, log=bool(tags))
        return FloatDistribution(low, high, log=bool(tags))
    words = list(dict.fromkeys(override.sweep_string_iterator()))
    if not words:
        raise ValueError("it holds no value.")
    if override.is_choice_sweep() or len(words) == 1:
        return CategoricalDistribution(words)
    numbers = sorted(cast(Iterator[float], override.sweep_iterator()))
    low, high, step = numbers[0], numbers[-1], numbers[1] - numbers[0]
    if all(isinstance(number, int) for number in numbers):
        return IntDistribution(int(low), int(high), step=int(step))
    return FloatDistribution(low, round(low + step * (len(numbers) - 1), 12), step=round(step, 12))


def _ends(distribution: Any) -> Sequence[Any]:
    return getattr(distribution, "choices", None) or (distribution.low, distribution.high)


_AGAIN = "again"
"""Attribute of a trial: number of the killed one whose settings it has."""

_DIRECTORY = "directory"
_ERROR = "error"

log = logging.getLogger(__name__)


class OptunaSweeper(Sweep):
    """Trials chosen by the tree-structured Parzen estimator; `hydra/sweeper=optuna`.

    Bergstra et al., Algorithms for Hyper-Parameter Optimization, NeurIPS 2011, section 4.

    Args:
        n_trials: Trials that finish or fail. A killed one is run again, and both count once.
        n_jobs: Trials chosen and launched at once.
        n_startup: Trials drawn at random before the estimator chooses.
        seed: Of the choices; each trial's depend on it, on the number and on what has finished.
        params: The search space, by key.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int = 1,
        n_startup: int = 10,
        seed: int = 0,
        params: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(params)
        self.n_trials, self.n_jobs, self.n_startup, self.seed = n_trials, n_jobs, n_startup, seed

    def sweep(self, arguments: list[str]) -> list[FrozenTrial]:
        """Run trials until as many have ended as were asked for.

        Args:
            arguments: Overrides from the command line.

        Returns:
            All trials that ended, of this process and of killed ones.

        Raises:
            PneumoniaError: Before any trial, if the search space is at fault or the directory
                holds another search; at the end, if every trial failed.
        """
        self._check_numbers()
        _require_optuna()
        space = parse_space(self.overrides(arguments))
        for corner in space.corners():
            self.vet(corner)
        with self.claimed():
            study = self._study(space)
            self._take_up(study)
            while (left := self.n_trials - len(_ended(study))) > 0:
                self._batch(study, space, min(left, self.n_jobs))
            return self._conclude(study)

    def _check_numbers(self) -> None:
        for name, least in {"n_trials": 1, "n_jobs": 1, "n_startup": 0, "seed": 0}.items():
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ConfigError(
                    f"hydra.sweeper.{name}={value!r} must be a whole number from {least} up."
                )

    def _study(self, space: Space) -> Study:
        """The study in the directory, or a new one."""
        import optuna  # noqa: PLC0415  an extra
        from optuna.storages import JournalStorage  # noqa: PLC0415
        from optuna.storages.journal import JournalFileBackend  # noqa: PLC0415

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        journal = self.directory / JOURNAL_FILE
        if not journal.exists() and any(self.directory.glob(f"*/{CONFIG_FILE}")):
            raise TrainingError(
                f"{self.directory} holds runs, but no search to go on with; leave hydra.sweep.dir"
                " out for a new directory, or name another."
            )
        _mend(journal)
        study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(journal))),
            study_name="sweep",
            direction="maximize" if self.master.mode == "max" else "minimize",
            load_if_exists=True,
        )
        asked = {
            "monitor": [f"{self.master.monitor} ({self.master.mode})"],
            "search space": [f"{key} from {d}" for key, d in space.distributions.items()],
            "fixed settings": space.fixed,
        }
        for name, words in asked.items():
            begun = study.user_attrs.get(name)
            if begun is None:
                study.set_user_attr(name, words)
            elif set(begun) != set(words):
                before, now = sorted(set(begun) - set(words)), sorted(set(words) - set(begun))
                raise TrainingError(
                    f"{self.directory} holds a search with another {name}: it began with"
                    f" {', '.join(before) or 'less'}, and now {', '.join(now) or 'less'} is asked"
                    " for; go on with the same settings, or name another hydra.sweep.dir."
                )
        return study

    def _take_up(self, study: Study) -> None:
        """Settle the trials that were running when the sweep was killed."""
        from optuna.trial import TrialState  # noqa: PLC0415

        trials = study.get_trials(deepcopy=False)
        again = {trial.user_attrs.get(_AGAIN) for trial in trials}
        for trial in trials:
            if trial.state != TrialState.RUNNING:
                continue
            directory = trial.user_attrs.get(_DIRECTORY)
            ending = job_summary(self.directory / directory) if directory else None
            if ending is not None:
                self._tell(study, trial.number, ending)
                continue
            if trial.number not in again:  # queued first: killed here, it is not lost
                study.enqueue_trial(trial.params, user_attrs={_AGAIN: trial.number})
            study.tell(trial.number, state=TrialState.FAIL)
            log.info("trial %d was killed; its settings run again", trial.number)

    def _batch(self, study: Study, space: Space, size: int) -> None:
        """Choose trials, run them, and tell the study how they ended."""
        numbers, jobs, directories = [], [], []
        for _ in range(size):
            study.sampler = self._sampler(len(study.get_trials(deepcopy=False)))
            trial = study.ask(space.distributions)
            numbers.append(trial.number)
            jobs.append(space.words(trial.params))
            directories.append(self.compose(jobs[-1], trial.number)[1])
            place = directories[-1].relative_to(self.directory)
            trial.set_user_attr(_DIRECTORY, str(place))
        endings = self.launch(jobs, directories, numbers[0])
        for number, ending in zip(numbers, endings, strict=True):
            self._tell(study, number, ending)

    def _sampler(self, number: int) -> Any:
        """A sampler with random numbers of its own for each trial.

        One that went on from the seed would, after a kill, draw the first trials once more.
        """
        from optuna.samplers import TPESampler  # noqa: PLC0415

        return TPESampler(
            seed=zlib.crc32(f"{self.seed} {number}".encode()),
            n_startup_trials=self.n_startup,
            constant_liar=self.n_jobs > 1,  # trials of one batch keep apart
        )

    def _tell(self, study: Study, number: int, ending: RunSummary) -> None:
        from optuna.trial import TrialState  # noqa: PLC0415

        score = ending.get("score", math.nan)
        if ending["status"] == "finished" and math.isfinite(score):
            study.tell(number, score)
            best = study.best_trial
            log.info(
                "trial %d: %s %.4f (best: %.4f of trial %d)",
                number, self.master.monitor, score, best.value, best.number,
            )  # fmt: skip
            return
        error = ending.get("error", f"{self.master.monitor} was {score}")
        study.set_user_attr(f"{_ERROR} of trial {number}", error)
        study.tell(number, state=TrialState.FAIL)
        log.error("trial %d failed: %s", number, error)

    def _conclude(self, study: Study) -> list[FrozenTrial]:
        """Say what was found."""
        trials = _ended(study)
        errors = {
            trial.number: study.user_attrs.get(f"{_ERROR} of trial {trial.number}", "unknown")
            for trial in trials
            if trial.value is None
        }
        if len(errors) == len(trials):
            number, error = next(iter(errors.items()))
            raise TrainingError(f"all {len(trials)} trials failed; trial {number}: {error}")
        best = study.best_trial
        lines = [
            f"{len(trials) - len(errors)} of {len(trials)} trials finished",
            *(f"Failed: trial {number}: {error}" for number, error in errors.items()),
            f"Best: trial {best.number}, {self.master.monitor} {best.value:.4f} with "
            + " ".join(f"{key}={value}" for key, value in best.params.items()),
            f"Its run: {self.directory / best.user_attrs[_DIRECTORY]}",
            f"Compare: pneumonia runs {self.directory}",
        ]
        log.info("%s", "\n".join(lines))
        return trials


def _ended(study: Study) -> list[FrozenTrial]:
    """Trials that finished or failed; not those that were killed."""
    trials = study.get_trials(deepcopy=False)
    again = {trial.user_attrs.get(_AGAIN) for trial in trials}
    return [t for t in trials if t.state.is_finished() and t.number not in again]


def _mend(journal: Path) -> None:
    """Undo what a kill in the middle of writing leaves: a torn last line, and the lock.

    Optuna reads no line after a torn one, and waits half a minute for the lock. Only for the
    process that holds the sweep's directory.
    """
    (journal.with_name(journal.name + ".lock")).unlink(missing_ok=True)
    if not journal.exists():
        return
    with journal.open("rb+") as file:
        text = file.read()
        whole = text.rfind(b"\n") + 1
        if whole < len(text):
            file.truncate(whole)
            os.fsync(file.fileno())


def _require_optuna() -> None:
    try:
        import optuna  # noqa: F401, PLC0415
    except ImportError as error:
        raise ConfigError(
            "hydra/sweeper=optuna needs Optuna: pip install 'pneumonia[sweep]', in a checkout"
            " pip install -e '.[sweep]'."
        ) from error
