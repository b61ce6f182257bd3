"""What the configuration asks of the machine: precision and the name of a run."""

import operator
import os
from datetime import datetime

import torch
from omegaconf import OmegaConf

from pneumonia.errors import ConfigError
from pneumonia.training.processes import handlers, launched, output_subdir


def precision(accelerator: str) -> str:
    """The mixed precision that the accelerator is fast and safe with.

    Args:
        accelerator: Lightning's name: `auto`, `gpu`, `cuda`, `cpu`, ...

    Returns:
        `bf16-mixed` on a GPU with native bfloat16, `16-mixed` on an older one, else
        `32-true`: on a CPU without matrix units bfloat16 is slower.
    """
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return "32-true"
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if native else "16-mixed"


def run_name() -> str:
    """Name of a run: the time to the microsecond, or the scheduler's job.

    All processes that a scheduler starts must name the same run, and their clocks differ.

    Raises:
        ConfigError: If torchrun was started without a name for the run.
    """
    tool, started = launched()
    if tool == "srun" and started > 1:
        return f"job-{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_STEP_ID', '0')}"
    if tool == "torchrun" and started > 1:
        name = os.environ["TORCHELASTIC_RUN_ID"]
        if name == "none":
            raise ConfigError(
                "the processes that torchrun started cannot agree on a name for the run; start it"
                " with --standalone or --rdzv-id=NAME, or give hydra.run.dir."
            )
        return f"job-{name}"
    return f"{datetime.now().astimezone():%Y-%m-%d_%H-%M-%S-%f}"


def register_resolvers() -> None:
    """Make `${precision:...}`, `${run_name:}` and the like known to the configuration."""
    OmegaConf.register_new_resolver("log_handlers", handlers, replace=True)
    OmegaConf.register_new_resolver("output_subdir", output_subdir, replace=True)
    OmegaConf.register_new_resolver("not", operator.not_, replace=True)
    OmegaConf.register_new_resolver("precision", precision, replace=True)
    OmegaConf.register_new_resolver("run_name", run_name, replace=True, use_cache=True)
