"""Train, test and record one run; with `-m`, a sweep. See conf/train.yaml for every setting.

python train.py trainer.max_epochs=8
python train.py experiment=quickstart
python train.py -m model.optimizer.lr=1e-3,1e-4 seed=1,2,3
"""

import logging

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning import seed_everything
from omegaconf import DictConfig
from rich.console import Console

from pneumonia.model.checkpoint import strip_checkpoint
from pneumonia.training.build import build
from pneumonia.training.entry import refuse_impossible, run
from pneumonia.training.hardware import register_resolvers
from pneumonia.training.outcome import test_checkpoint
from pneumonia.training.preflight import best_checkpoint, dev_run
from pneumonia.training.record import log_hyperparameters, refuse_used

log = logging.getLogger(__name__)


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(config: DictConfig) -> float | None:
    """Run one job; returns the monitored metric of the best checkpoint, for sweepers."""
    job = HydraConfig.get()
    directory, sweep = job.runtime.output_dir, job.mode == RunMode.MULTIRUN
    refuse_impossible(config, sweep)
    refuse_used(directory)
    seed_everything(config.seed, workers=True, verbose=False)
    parts = build(config, directory)
    trainer = parts.trainer

    trainer.fit(parts.model, parts.datamodule, ckpt_path=config.ckpt_path, weights_only=True)
    if dev_run(trainer):
        return None
    checkpoint, score = best_checkpoint(trainer)
    if trainer.is_global_zero:
        strip_checkpoint(checkpoint)
    trainer.strategy.barrier()

    final = {f"best/{config.monitor}": score}
    console = Console()
    if config.test if config.test is not None else not sweep:
        outcome = test_checkpoint(trainer, checkpoint, parts.datamodule, directory)
        final |= {f"test/{name}": value for name, value in outcome.metrics.items()}
        if trainer.is_global_zero:
            console.print(outcome.table)
    log_hyperparameters(trainer, config, job.overrides.task, final)
    if trainer.is_global_zero:
        console.print(
            f"Best {config.monitor} {score:.4f} on the hold-out, which promises more than new"
            " images keep\n"
            f"Checkpoint to deploy: {checkpoint}\n"
            f"Figures, metrics and predictions: {directory}\n"
            f"Monitor: tensorboard --logdir {directory}",
            soft_wrap=True,
            highlight=False,
        )
    return score


if __name__ == "__main__":
    register_resolvers()
    run(main)
