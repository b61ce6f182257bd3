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

from pneumonia.training.callbacks.checkpoint import best_checkpoint
from pneumonia.training.config import register_resolvers
from pneumonia.training.errors import check_run, handle_errors, run
from pneumonia.training.finalize import finalize
from pneumonia.training.pipeline import build_run, export_best, finish, test
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
    exported = export_best(parts, path) if start.export else None
    finish(parts, path, score, checkpoint, result, exported)
    return score


if __name__ == "__main__":
    register_resolvers()
    register_sweepers()
    run(main)
