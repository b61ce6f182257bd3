"""Jobs of a sweep handed to a scheduler, one of which may be killed without ending the others.

hydra-submitit-launcher waits for its jobs in order and stops at the first that was killed, while
the rest of the array still runs; nobody would then read how those ended.
"""

import logging
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.plugins.plugin import Plugin
from hydra_plugins.hydra_submitit_launcher import submitit_launcher as plugin
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf

from pneumonia.errors import sentence
from pneumonia.training.sweep.grid import GridSweeper
from pneumonia.training.sweep.optuna import OptunaSweeper

log = logging.getLogger(__name__)


class PatientLauncher(plugin.BaseSubmititLauncher):  # type: ignore[misc]  # ships no types
    """The plugin's launcher, which waits for every job."""

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> list[JobReturn]:
        """Submit the jobs as one array, and wait for all.

        Args:
            job_overrides: Overrides of each.
            initial_job_idx: Number of the first.

        Returns:
            What each returned; a killed one has failed, with the scheduler's word.
        """
        import submitit  # noqa: PLC0415  takes its time

        known = BaseQueueConf.__dataclass_fields__
        common = {key: value for key, value in self.params.items() if key in known}
        own = {f"{self._EXECUTOR}_{k}": v for k, v in self.params.items() if k not in known}
        folder = common.pop("submitit_folder")
        retries = f"{self._EXECUTOR}_max_num_timeout"
        first = {retries: own.pop(retries)} if retries in own else {}
        executor = submitit.AutoExecutor(folder=folder, cluster=self._EXECUTOR, **first)
        executor.update_parameters(**common, **own)
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        jobs = executor.map_array(
            self,
            [list(overrides) for overrides in job_overrides],
            ["hydra.sweep.dir"] * len(numbers),
            numbers,
            [str(number) for number in numbers],
            [Singleton.get_state()] * len(numbers),
        )
        for number, job, overrides in zip(numbers, jobs, job_overrides, strict=True):
            log.info(
                "\t#%d is job %s: %s", number, job.job_id, " ".join(filter_overrides(overrides))
            )
        return [_returned(number, job) for number, job in zip(numbers, jobs, strict=True)]


class SlurmLauncher(PatientLauncher):
    """`hydra/launcher=slurm`."""

    _EXECUTOR = "slurm"


class LocalLauncher(PatientLauncher):
    """`hydra/launcher=local`."""

    _EXECUTOR = "local"


def _returned(number: int, job: Any) -> JobReturn:
    try:
        returned: JobReturn = job.results()[0]
    except Exception as error:  # noqa: BLE001  whatever the scheduler did to it
        log.error("job %d (%s) was killed: %s", number, job.job_id, sentence(error)[:150])
        returned = JobReturn(status=JobStatus.FAILED, _return_value=error)
    return returned


def register_plugins() -> None:
    """Make our `hydra/sweeper` and `hydra/launcher` choices known to Hydra.

    It takes plugins only by names in the package `hydra_plugins`, which a checkout cannot extend.
    """
    plugins: list[type[Plugin]] = [GridSweeper, OptunaSweeper]
    if find_spec("hydra_plugins") and find_spec("hydra_plugins.hydra_submitit_launcher"):
        from pneumonia.training.sweep.launchers import LocalLauncher, SlurmLauncher  # noqa: PLC0415

        plugins += [LocalLauncher, SlurmLauncher]
    known = Plugins.instance().class_name_to_class
    known |= {f"hydra_plugins.pneumonia.{plugin.__name__}": plugin for plugin in plugins}
