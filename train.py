"""Train, test and record one run; with `-m`, a sweep. See conf/train.yaml for every setting.

python train.py trainer.max_epochs=8
python train.py experiment=quickstart
python train.py -m model.optimizer.lr=1e-3,1e-4 seed=1,2,3
python train.py resume=true hydra.run.dir=RUN
python train.py repeat=RUN
"""

from datetime import UTC, datetime

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning import seed_everything
from omegaconf import DictConfig
from rich.console import Console

from pneumonia.evaluation.summary import summary
from pneumonia.training.build import build, plain
from pneumonia.training.closing import close
from pneumonia.training.entry import guarded, refuse_impossible, run
from pneumonia.training.facts import gather
from pneumonia.training.freeze import freeze, frozen
from pneumonia.training.hardware import register_resolvers
from pneumonia.training.outcome import test_checkpoint
from pneumonia.training.plugins import register_plugins
from pneumonia.training.preflight import best_checkpoint, dev_run
from pneumonia.training.record import finish, log_hyperparameters, refuse_used
from pneumonia.training.start import settle


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@guarded
def main(config: DictConfig) -> float | None:
    """Run one job; returns the monitored metric of the best checkpoint, for sweepers."""
    started, job = datetime.now(UTC), HydraConfig.get()
    directory, sweep = job.runtime.output_dir, job.mode == RunMode.MULTIRUN
    start = settle(config, job)
    config = start.config
    refuse_impossible(config, sweep)
    if not start.resumed:
        refuse_used(directory)
    seed_everything(config.seed, workers=True, verbose=False)
    test = config.test if config.test is not None else not sweep
    parts = build(config, directory, test, start)
    trainer, datamodule = parts.trainer, parts.datamodule

    trainer.fit(parts.model, datamodule, ckpt_path=start.checkpoint, weights_only=True)
    if dev_run(trainer):
        return None
    checkpoint, score = best_checkpoint(trainer)
    point = frozen(checkpoint)  # by this run, before it was interrupted
    if point is None:
        facts = gather(plain(config), datamodule, trainer, started)
        point = freeze(trainer, checkpoint, datamodule, config.evaluation, facts)

    final, written = {f"best/{config.monitor}": score}, "Record of the run (test split not opened)"
    console = Console(quiet=not trainer.is_global_zero)
    if test:
        result = test_checkpoint(trainer, checkpoint, datamodule, directory)
        if result is not None:
            written = "Report, metrics and predictions"
            console.print(summary(result))
            final |= result.assessment.plain("test/")
    log_hyperparameters(trainer, config, start.overrides, final)
    close(trainer, directory, config, checkpoint, score, point)
    finish(trainer, directory)
    console.print(
        f"The hold-out ({config.monitor} {score:.4f}) promised sensitivity {point.sensitivity:.3f}"
        f" and specificity {point.specificity:.3f}; new images keep less of it than that\n"
        f"Checkpoint to deploy: {checkpoint}\n"
        f"{written}: {directory}\n"
        f"Monitor: tensorboard --logdir {directory}",
        soft_wrap=True,
        highlight=False,
    )
    return score


if __name__ == "__main__":
    register_resolvers()
    register_plugins()
    run(main)
