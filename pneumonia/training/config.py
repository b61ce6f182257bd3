"""The composed configuration against the classes it names: unknown keys and wrong types.

Hydra checks that a key exists in the files; this checks that a value is of the type that the
class's own signature declares, so that nothing has to be declared twice.
"""

import difflib
import inspect
import operator
import os
import types
import typing
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from os import PathLike
from typing import Any

import torch
from hydra.utils import get_object
from omegaconf import OmegaConf

from pneumonia.errors import ConfigError
from pneumonia.evaluation.threshold import Policy
from pneumonia.training.distributed import detect_launcher, log_handlers, output_subdir


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
    tool, started = detect_launcher()
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
    OmegaConf.register_new_resolver("log_handlers", log_handlers, replace=True)
    OmegaConf.register_new_resolver("output_subdir", output_subdir, replace=True)
    OmegaConf.register_new_resolver("not", operator.not_, replace=True)
    OmegaConf.register_new_resolver("precision", precision, replace=True)
    OmegaConf.register_new_resolver("run_name", run_name, replace=True, use_cache=True)


ROOT: dict[str, Any] = {
    "seed": int,
    "monitor": str,
    "mode": typing.Literal["min", "max"],
    "test": bool | None,
    "ckpt_path": str | None,
    "resume": bool,
    "repeat": str | None,
    "checkpoint.every_n_steps": int | None,
    "evaluation.operating_point": Policy,
    "evaluation.target": float | None,
    "evaluation.alpha": float,
}
"""Types of the settings that belong to the run itself."""

_PARTS = ("data", "model", "trainer")
_COLLECTIONS = ("callbacks", "logger")
_SECTIONS = ("evaluation", "checkpoint")
_RESERVED = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}
_PLAIN = (bool, int, float, str, type(None))


def check_config(config: Mapping[str, Any]) -> None:
    """Check a composed and resolved configuration.

    Args:
        config: Plain nested dictionaries; a node with `_target_` is a call.

    Raises:
        ConfigError: At the first unknown key or value of the wrong type, by its full name.
    """
    for group in (*_PARTS, *_COLLECTIONS, *_SECTIONS):
        _check_group(group, config.get(group))
    for key, hint in ROOT.items():
        section, _, name = key.rpartition(".")
        node = config[section] if section else config
        if name not in node:
            raise ConfigError(f"{key} is missing; leave it in, with a value of its own.")
        _check_value(key, node[name], hint)
    sections = {key.partition(".")[0] for key in ROOT}
    _refuse_unknown("", config, sections | {*_PARTS, *_COLLECTIONS})
    for section in _SECTIONS:
        known = {key.partition(".")[2] for key in ROOT if key.startswith(f"{section}.")}
        _refuse_unknown(f"{section}.", config[section], known)
    for path, node in _calls(config, ""):
        _check_call(path, node)


def _refuse_unknown(prefix: str, node: Mapping[str, Any], known: Iterable[str]) -> None:
    for key in node:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, 1)
            raise ConfigError(
                f"{prefix}{key} is no setting"
                + (f"; did you mean {close[0]}?" if close else f"; there is {', '.join(known)}.")
            )


def _check_group(group: str, node: Any) -> None:
    if node is None and group in _COLLECTIONS:
        return
    whole = isinstance(node, Mapping) and (group not in _PARTS or "_target_" in node)
    if not whole:
        raise ConfigError(
            f"{group}={node!r} is no group of settings; name a file of conf/{group}, or give the"
            f" settings in it one by one, such as {group}.KEY=VALUE."
        )


def _calls(node: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from _calls(value, f"{path}.{key}" if path else str(key))


def _check_call(path: str, node: Mapping[str, Any]) -> None:
    try:
        target = get_object(node["_target_"])
    except Exception as error:  # whatever importing it raised
        raise ConfigError(f"{path}._target_={node['_target_']} cannot be imported.") from error
    hints, open_ended = _parameters(target)
    for key, value in node.items():
        if key in _RESERVED:
            continue
        if key in hints:
            _check_value(f"{path}.{key}", value, hints[key])
        elif not open_ended:
            close = difflib.get_close_matches(key, hints, 1)
            raise ConfigError(
                f"{path}.{key} is no setting of {getattr(target, '__name__', target)}"
                + (f"; did you mean {close[0]}?" if close else f", which has {', '.join(hints)}.")
            )


def _parameters(target: Any) -> tuple[dict[str, Any], bool]:
    """Type hints by parameter name, and whether any further keyword is taken."""
    hints: dict[str, Any] = {}
    family = target.__mro__ if inspect.isclass(target) else ()
    callables = [vars(c)["__init__"] for c in family if "__init__" in vars(c)] or [target]
    for function in callables:
        parameters = inspect.signature(function).parameters.values()
        own = typing.get_type_hints(function) if hasattr(function, "__annotations__") else {}
        for parameter in parameters:
            if parameter.name != "self" and parameter.kind not in (
                parameter.VAR_KEYWORD,
                parameter.VAR_POSITIONAL,
            ):
                hints.setdefault(parameter.name, own.get(parameter.name, Any))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return hints, False
    return hints, True


def _check_value(key: str, value: Any, hint: Any) -> None:
    if not _fits(value, hint):
        raise ConfigError(
            f"{key}={value!r} is of the wrong type: expected {' or '.join(_words(hint))}."
        )


def _fits(value: Any, hint: Any) -> bool:  # noqa: C901, PLR0911  one answer for each kind of hint
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, typing.TypeVar):
        return True
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return any(value == a and type(value) is type(a) for a in arguments)
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is None or hint is type(None):
        return value is None
    container = origin or hint
    if not inspect.isclass(container):
        return True
    if issubclass(container, PathLike):
        return isinstance(value, str)
    if issubclass(container, tuple):
        return isinstance(value, (list, tuple))
    return isinstance(value, container) and not (isinstance(value, str) and container is not str)


def _words(hint: Any) -> list[str]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return list(dict.fromkeys(word for a in typing.get_args(hint) for word in _words(a)))
    if typing.get_origin(hint) is typing.Literal:
        return [str(argument) for argument in typing.get_args(hint)]
    if hint is None or hint is type(None):
        return ["null"]
    return [getattr(hint, "__name__", str(hint))]
