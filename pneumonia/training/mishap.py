"""What the machine does to a run, in a sentence that says how to go on."""

import errno
import re

import torch
from omegaconf import DictConfig, OmegaConf

from pneumonia.errors import ConfigError, DataError, PneumoniaError, TrainingError, sentence
from pneumonia.training.company import LostError, is_lost

_NO_MEMORY = re.compile(
    r"can't allocate memory|not enough memory|CUDA out of memory", re.IGNORECASE
)
_NO_WORKER = re.compile(r"DataLoader worker \(pid\S* [\d, ]+\) (is killed by|exited)")
_UNUSED = "Expected to have finished reduction in the prior iteration"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_CLOSED = (errno.EROFS, errno.EACCES, errno.EPERM)


def explain(  # noqa: PLR0911  one answer for each kind of mishap
    error: BaseException, directory: str, config: DictConfig | None
) -> PneumoniaError | None:
    """A mishap as an error that a user can mend.

    Args:
        error: Whatever ended the run.
        directory: Of the run.
        config: Its configuration, where it got that far.

    Returns:
        None if it is no known mishap, but probably a bug.
    """
    text = sentence(error)
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or (
        isinstance(error, RuntimeError) and _NO_MEMORY.search(text)
    ):
        return TrainingError(
            f"out of memory with {_present(config, 'data.batch_size')},"
            f" {_present(config, 'data.image_size')} and"
            f" {_present(config, 'trainer.accumulate_grad_batches')}; halve the first and double"
            " the last, which trains on as many images a step, or lower the second."
        )
    if isinstance(error, RuntimeError) and _NO_WORKER.search(text):
        return DataError(
            f"a data worker died ({_first_clause(text)}), most often because memory ran out;"
            f" lower {_present(config, 'data.num_workers')}, 0 reads in the process itself."
            f" {_resume(directory)}"
        )
    if isinstance(error, RuntimeError) and _UNUSED in text:
        return ConfigError(
            f"some weights of {_present(config, 'model.backbone')} take no part in the loss, which"
            " trainer.strategy=ddp does not expect; set"
            " trainer.strategy=ddp_find_unused_parameters_true, which is slower."
        )
    if is_lost(error):
        return LostError(directory)
    if isinstance(error, OSError) and error.errno in _FULL:
        return TrainingError(
            f"no space is left to write {error.filename or directory} ({error.strerror}); free"
            f" some. {_resume(directory)}"
        )
    if isinstance(error, OSError) and error.errno in _CLOSED:
        return TrainingError(
            f"{error.filename or directory} cannot be written ({error.strerror}); give a folder"
            " that can by hydra.run.dir=DIR."
        )
    return None


def _present(config: DictConfig | None, key: str) -> str:
    value = None if config is None else OmegaConf.select(config, key)
    return f"{key}={'null' if value is None else value}"


def _first_clause(text: str) -> str:
    return text.partition(". ")[0]


def _resume(directory: str) -> str:
    return f"Then go on with: python train.py resume=true hydra.run.dir={directory}"
