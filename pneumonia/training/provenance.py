"""Where a run comes from: command, code, packages, machine."""

import os
import platform
import subprocess
from collections.abc import Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

_CHECKOUT = Path(__file__).parents[2]
_LONGEST_DIFF = 1_000_000

_VARIABLES = (
    "CUBLAS_WORKSPACE_CONFIG",
    "CUDA_VISIBLE_DEVICES",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "SLURM_JOB_ID",
    "SLURM_NTASKS",
    "WORLD_SIZE",
)
"""The only ones that are recorded: others may hold a secret."""


def provenance() -> dict[str, Any]:
    """What the outcome of a run may depend on beside its configuration; plain values."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "packages": dict(sorted({d.name: d.version for d in distributions()}.items())),
        "variables": {name: os.environ[name] for name in _VARIABLES if name in os.environ},
        "machine": {
            "system": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": gpus,
            "cuda": torch.version.cuda,
        },
    }


def commit() -> str:
    """Commit of the checkout, with `-dirty` behind it if files differ; `unknown` without git."""
    return _git("describe", "--always", "--dirty", "--abbrev=40").strip() or "unknown"


def changes() -> str:
    """How the checkout's files differ from the commit, as `git diff` says; at most 1 MB."""
    diff = _git("diff", "HEAD", "--", ".")
    if len(diff) <= _LONGEST_DIFF:
        return diff
    return f"{diff[:_LONGEST_DIFF]}\n[cut: the whole is {len(diff)} characters]\n"


def differences(recorded: Mapping[str, Any]) -> list[str]:
    """What is not as it was when a run was recorded, in words.

    Args:
        recorded: As `provenance` gave it.
    """
    present = provenance()
    found = [
        f"{name} was {recorded.get(name)} and is {present[name]}"
        for name in ("commit", "python")
        if recorded.get(name) != present[name]
    ]
    before, now = recorded.get("packages", {}), present["packages"]
    return found + [
        f"{name} was {before.get(name, 'missing')} and is {now.get(name, 'missing')}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]


def _git(*words: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603  fixed commands
            ["git", *words],  # noqa: S607
            capture_output=True,
            text=True,
            errors="replace",
            timeout=30,
            check=True,
            cwd=_CHECKOUT,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout
