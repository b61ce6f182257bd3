"""Train, test and record one run; with `-m`, a sweep. See conf/train.yaml for every setting.

python train.py trainer.max_epochs=8
python train.py experiment=quickstart
python train.py -m model.optimizer.lr=1e-3,1e-4 seed=1,2,3
python train.py resume=true hydra.run.dir=RUN
python train.py repeat=RUN
"""

import hydra
from hydra.core.hydra_config import HydraConfig
from lightning import seed_everything
from omegaconf import DictConfig
from rich.console import Console

from pneumonia.evaluation.report.console import console_summary
from pneumonia.training.callbacks.checkpoint import best_checkpoint
from pneumonia.training.config import register_resolvers
from pneumonia.training.errors import check_run, handle_errors, run
from pneumonia.training.finalize import finalize
from pneumonia.training.pipeline import build_run, record_finish, test
from pneumonia.training.resume import resolve_run_start
from pneumonia.training.sweep.optuna import register_sweepers


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
@handle_errors
def main(config: DictConfig) -> float | None:
    """Run one job; returns the monitored metric of the best checkpoint, for sweepers."""
    start = resolve_run_start(config, HydraConfig.get())  # anew, resumed or repeated
    check_run(start.config, start.sweep)
    seed_everything(start.config.seed, workers=True, verbose=False)
    parts = build_run(start)
    trainer = parts.trainer

    trainer.fit(parts.model, parts.datamodule, ckpt_path=start.checkpoint, weights_only=True)
    if start.config.trainer.fast_dev_run:  # saves nothing
        return None
    path, score = best_checkpoint(trainer)
    checkpoint = finalize(parts, path)
    result = test(parts, path, checkpoint) if start.test else None
    record_finish(parts, path, score, checkpoint, result)

    console = Console(quiet=not trainer.is_global_zero)
    if result is not None:
        console.print(console_summary(result))
    point = checkpoint["operating_point"]
    console.print(
        f"Validation estimate (optimistic): {start.config.monitor} {score:.3f}, recall"
        f" {point['sensitivity']:.3f}, specificity {point['specificity']:.3f}\n"
        f"Checkpoint: {path}\n"
        f"{'Run directory' if result is None else 'Report and metrics'}: {start.directory}\n"
        f"TensorBoard: tensorboard --logdir {start.directory}",
        soft_wrap=True,
        highlight=False,
    )
    return score


if __name__ == "__main__":
    register_resolvers()
    register_sweepers()
    run(main)
