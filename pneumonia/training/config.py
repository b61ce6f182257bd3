"""Command-line overrides, resolvers, and a check of a config against the signatures it names."""

import contextlib
import difflib
import inspect
import json
import operator
import os
import shlex
import typing
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import torch
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, Quote, QuotedString
from hydra.errors import ConfigCompositionException, HydraException
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from pydantic import (
    ConfigDict,
    PositiveInt,
    PydanticSchemaGenerationError,
    TypeAdapter,
    ValidationError,
)

from pneumonia.errors import ConfigError
from pneumonia.evaluation.threshold import Policy
from pneumonia.training.distributed import detect_launcher, is_rank_zero


def precision(accelerator: str) -> str:
    """Lightning's name of the precision that is fast and safe on an accelerator.

    `bf16-mixed` on a GPU with native bfloat16, `16-mixed` on an older one, `32-true` on a CPU.
    """
    if accelerator not in ("auto", "gpu", "cuda") or not torch.cuda.is_available():
        return "32-true"
    native = torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16-mixed" if native else "16-mixed"


def run_name() -> str:
    """Name a run after the time, or after the job that all its processes belong to.

    Raises:
        ConfigError: If torchrun was started without a job id.
    """
    tool, started = detect_launcher()
    if tool == "srun" and started > 1:
        return f"job-{os.environ['SLURM_JOB_ID']}-{os.environ.get('SLURM_STEP_ID', '0')}"
    if tool == "torchrun" and started > 1:
        name = os.environ["TORCHELASTIC_RUN_ID"]
        if name == "none":
            raise ConfigError(
                "torchrun has no job id, which names the run. Start it with --standalone or"
                " --rdzv-id=NAME, or set hydra.run.dir."
            )
        return f"job-{name}"
    return f"{datetime.now().astimezone():%Y-%m-%d_%H-%M-%S-%f}"


def register_resolvers() -> None:
    """Register `${precision:...}`, `${run_name:}` and the other resolvers that conf/ uses."""
    resolvers = {  # only rank zero logs and keeps Hydra's own files
        "log_handlers": lambda: ["console", "file"] if is_rank_zero() else ["nowhere"],
        "output_subdir": lambda: ".hydra" if is_rank_zero() else None,
    }
    for name, resolver in resolvers.items():
        OmegaConf.register_new_resolver(name, resolver, replace=True)
    OmegaConf.register_new_resolver("not", operator.not_, replace=True)
    OmegaConf.register_new_resolver("precision", precision, replace=True)
    OmegaConf.register_new_resolver("run_name", run_name, replace=True, use_cache=True)


ROOT_TYPES: dict[str, Any] = {
    "seed": int,
    "monitor": str,
    "mode": Literal["min", "max"],
    "test": bool | None,
    "export": bool | None,
    "ckpt_path": str | None,
    "resume": bool,
    "repeat": str | None,
    "checkpoint.every_n_steps": PositiveInt | None,
    "evaluation.operating_point": Policy,
    "evaluation.target": float | None,
    "evaluation.alpha": float,
    "evaluation.threshold_on_shifted": bool,
}
"""Types of the settings that no class declares."""

RENAMED = {
    "data.holdout": "data.split",
    "data.fit": "data.resize_mode",
    "model.fit": "model.resize_mode",
    "evaluation.abstention_error": "evaluation.alpha",
    "data.phantom_seed": "data.synthetic_seed",
    "data=phantom": "data=synthetic",
    "experiment=seed": "experiment=keras_notebook",
}
"""Keys and choices of release 0.1, and what they are now."""

_CLASSES = ("data", "model", "trainer")
_COLLECTIONS = ("callbacks", "logger")
_SECTIONS = ("evaluation", "checkpoint")
_HYDRA_KEYS = {"_target_", "_partial_", "_convert_", "_recursive_", "_args_"}


def refuse_renamed_keys(overrides: Sequence[str]) -> None:
    """Refuse overrides with a key or choice of an earlier release.

    Raises:
        ConfigError: At the first one, with its new name.
    """
    for override in overrides:
        words = override.lstrip("+~")
        for old, new in RENAMED.items():
            if words == old or words.startswith((f"{old}.", f"{old}=", f"{old},")):
                raise ConfigError(f"{old} was renamed: use {new}.")


_TEXT_KEYS = {
    "root", "table", "cache_dir", "patients", "weights", "repeat", "ckpt_path", "dir", "save_dir",
    "dirpath", "default_root_dir",
}  # fmt: skip
"""Last names of the keys whose values are a path, or the pattern that finds the patient."""

_SWEEP = ("-m", "--multirun", "hydra.mode=MULTIRUN", "hparams_search=")


def quote_values(words: Sequence[str]) -> list[str]:
    """Quote paths and patterns that Hydra cannot take as typed, such as `data.root=Data (1)`.

    A leading `~` becomes the home directory. In a sweep, where a comma separates values, nothing is
    quoted.

    Raises:
        ConfigError: If a value is not valid Hydra syntax, with the form to type.
    """
    sweep = any(word.startswith(_SWEEP) for word in words)
    return [_quote(word, sweep) if "=" in word and word[0] not in "-~" else word for word in words]


def _quote(word: str, sweep: bool) -> str:
    key, _, value = word.partition("=")
    is_text = key.rpartition(".")[2] in _TEXT_KEYS
    if is_text:  # Path would drop a trailing separator
        value = ",".join(os.path.expanduser(part) for part in value.split(","))  # noqa: PTH111
    override = _parse(f"{key}={value}")
    quoted = f"{key}={QuotedString(value, Quote.single).with_quotes()}"
    if is_text and not sweep:
        if override is None or override.is_sweep_override():
            return quoted
        # Folders may have the name of a list, a number or a truth value.
        plain = isinstance(override.value(), str | QuotedString | None)
        return f"{key}={value}" if plain else quoted
    if override is None:
        raise ConfigError(
            f"{word} is not valid Hydra syntax; quote the value: {shlex.quote(quoted)}"
        )
    return f"{key}={value}"


def _parse(word: str) -> Override | None:
    try:
        return OverridesParser.create().parse_override(word)
    except HydraException:
        return None


def check_config(config: Mapping[str, Any]) -> None:
    """Check a composed and resolved configuration.

    Args:
        config: Plain nested dictionaries; a node with `_target_` is a call.

    Raises:
        ConfigError: At the first unknown key or value of a wrong type, with its full name.
    """
    for group in (*_CLASSES, *_COLLECTIONS, *_SECTIONS):
        node = config.get(group)
        valid = isinstance(node, Mapping) and (group not in _CLASSES or "_target_" in node)
        if not valid and not (node is None and group in _COLLECTIONS):
            raise ConfigError(
                f"{group}={node!r}: expected the name of a file in conf/{group}. Set single values"
                f" with {group}.KEY=VALUE."
            )
    sections = {key.partition(".")[0] for key in ROOT_TYPES}
    _refuse_unknown("", config, sections | {*_CLASSES, *_COLLECTIONS})
    for section in _SECTIONS:
        names = [key.partition(".")[2] for key in ROOT_TYPES if key.startswith(f"{section}.")]
        _refuse_unknown(f"{section}.", config[section], names)
    for key, hint in ROOT_TYPES.items():
        section, _, name = key.rpartition(".")
        node = config[section] if section else config
        if name not in node:
            raise ConfigError(f"{key} is missing.")
        _check_value(key, node[name], hint)
    _check_calls(config, "")


def explain_unknown_key(error: BaseException) -> ConfigError | None:
    """Name the nearest valid key where Hydra only says that it cannot override one.

    Returns:
        None if the error is about something else.
    """
    cause = error.__cause__
    node, name = getattr(cause, "parent_node", None), str(getattr(cause, "key", ""))
    if not isinstance(error, ConfigCompositionException) or not isinstance(node, DictConfig):
        return None
    known = {str(key) for key in node}
    if not known:  # the parent is a value
        return None
    if "_target_" in node:
        with contextlib.suppress(Exception):  # it may be no importable name
            known |= _parameters(get_object(node["_target_"]))[0].keys()
    path = str(getattr(cause, "full_key", name))
    if name in known:
        return ConfigError(f"{path} is in no file of conf: set it with +{path}=VALUE.")
    return _unknown_key(path.removesuffix(name), name, known)


def _refuse_unknown(prefix: str, node: Mapping[str, Any], known: Iterable[str]) -> None:
    for key in node:
        if key not in known and key not in _HYDRA_KEYS:
            raise _unknown_key(prefix, str(key), known)


def _unknown_key(prefix: str, key: str, known: Iterable[str]) -> ConfigError:
    known = sorted(set(known) - _HYDRA_KEYS)
    close = difflib.get_close_matches(key, known, 1)
    if new := RENAMED.get(f"{prefix}{key}"):
        hint = f"it was renamed to {new}."
    else:
        hint = f"did you mean {close[0]}?" if close else f"expected one of {', '.join(known)}."
    return ConfigError(f"Unknown key {prefix}{key}: {hint}")


def _check_calls(node: Any, path: str) -> None:
    if not isinstance(node, Mapping):
        return
    if "_target_" in node:
        try:
            target = get_object(node["_target_"])
        except Exception as error:  # any error of an import
            raise ConfigError(f"{path}._target_={node['_target_']} cannot be imported.") from error
        check_arguments(path, node, target)
    for key, value in node.items():
        _check_calls(value, f"{path}.{key}" if path else str(key))


def check_arguments(path: str, node: Mapping[str, Any], target: Any) -> None:
    """Check the node at `path` against the signature and type hints of the class it configures.

    Raises:
        ConfigError: At the first unknown key or value of a wrong type.
    """
    hints, takes_any = _parameters(target)
    if not takes_any:
        _refuse_unknown(f"{path}.", node, hints)
    for key, value in node.items():
        if key in hints:
            _check_value(f"{path}.{key}", value, hints[key])


def _parameters(target: Any) -> tuple[dict[str, Any], bool]:
    """Type hints by parameter name, and whether any other keyword is accepted.

    A constructor with `**kwargs` is taken to pass them to the one of the base class.
    """
    hints: dict[str, Any] = {}
    bases = target.__mro__ if inspect.isclass(target) else ()
    for function in [vars(c)["__init__"] for c in bases if "__init__" in vars(c)] or [target]:
        parameters = inspect.signature(function).parameters.values()
        annotated = hasattr(function, "__annotations__")
        types = typing.get_type_hints(function, include_extras=True) if annotated else {}
        for p in parameters:
            if p.name != "self" and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL):
                hints.setdefault(p.name, types.get(p.name, Any))
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return hints, False
    return hints, True


def _check_value(key: str, value: Any, hint: Any) -> None:
    text = json.dumps(value, default=str)
    if '"_target_"' in text:  # an object, which its user checks
        return
    try:
        adapter = TypeAdapter[Any](hint, config=ConfigDict(arbitrary_types_allowed=True))
        # Strict: "8" and true are no integers. As JSON: a list may be a tuple, and text a path.
        adapter.validate_json(text, strict=True)
    except PydanticSchemaGenerationError:
        return
    except ValidationError as error:
        expected = [
            e["msg"].removeprefix("Input should be ")
            for e in error.errors()
            if e["type"] != "needs_python_object"  # a class, which text can never be
        ]
        raise ConfigError(
            f"{key}={value!r}: expected {' or '.join(dict.fromkeys(expected)) or hint}."
        ) from error
