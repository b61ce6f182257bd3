"""Our sweepers and launchers, under names that Hydra accepts."""

from importlib.util import find_spec

from hydra.core.plugins import Plugins
from hydra.plugins.plugin import Plugin

from pneumonia.training.search import OptunaSweeper
from pneumonia.training.sweep import GridSweeper


def register_plugins() -> None:
    """Make our `hydra/sweeper` and `hydra/launcher` choices known to Hydra.

    It takes plugins only by names in the package `hydra_plugins`, which a checkout cannot extend.
    """
    plugins: list[type[Plugin]] = [GridSweeper, OptunaSweeper]
    if find_spec("hydra_plugins") and find_spec("hydra_plugins.hydra_submitit_launcher"):
        from pneumonia.training.cluster import LocalLauncher, SlurmLauncher  # noqa: PLC0415

        plugins += [LocalLauncher, SlurmLauncher]
    known = Plugins.instance().class_name_to_class
    known |= {f"hydra_plugins.pneumonia.{plugin.__name__}": plugin for plugin in plugins}
