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

from pneumonia.evaluation.report.console import print_summary
from pneumonia.training.callbacks.sanity_checks import best_checkpoint, is_fast_dev_run
from pneumonia.training.config import register_resolvers
from pneumonia.training.errors import check_run, handle_errors, run
from pneumonia.training.finalize import finalize, load_operating_point
from pneumonia.training.pipeline import build_run, test_checkpoint, to_container
from pneumonia.training.resume import resolve_run_start
from pneumonia.training.run_record import (
    collect_metadata,
    log_hyperparameters,
    mark_finished,
    refuse_used_directory,
    write_finished_summary,
)
from pneumonia.training.sweep.launchers import register_plugins


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@handle_errors
def main(config: DictConfig) -> float | None:
    """Run one job; returns the monitored metric of the best checkpoint, for sweepers."""
    started, job = datetime.now(UTC), HydraConfig.get()
    directory, sweep = job.runtime.output_dir, job.mode == RunMode.MULTIRUN
    start = resolve_run_start(config, job)
    config = start.config
    check_run(config, sweep)
    if not start.resumed:
        refuse_used_directory(directory)
    seed_everything(config.seed, workers=True, verbose=False)
    test = config.test if config.test is not None else not sweep
    parts = build_run(config, directory, test, start)
    trainer, datamodule = parts.trainer, parts.datamodule

    trainer.fit(parts.model, datamodule, ckpt_path=start.checkpoint, weights_only=True)
    if is_fast_dev_run(trainer):
        return None
    checkpoint, score = best_checkpoint(trainer)
    point = load_operating_point(checkpoint)  # by this run, before it was interrupted
    if point is None:
        metadata = collect_metadata(to_container(config), datamodule, trainer, started)
        point = finalize(trainer, checkpoint, datamodule, config.evaluation, metadata)

    final, written = {f"best/{config.monitor}": score}, "Record of the run (test split not opened)"
    console = Console(quiet=not trainer.is_global_zero)
    if test:
        result = test_checkpoint(trainer, checkpoint, datamodule, directory)
        if result is not None:
            written = "Report, metrics and predictions"
            print_summary(result, {"Report": f"{directory}/report.html"})
            final |= result.values("test/")
    log_hyperparameters(trainer, config, start.overrides, final)
    write_finished_summary(trainer, directory, config, checkpoint, score, point)
    mark_finished(trainer, directory)
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
