"""Without any extra the core imports, trains and predicts; what needs one says which."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ABSENT = (
    *("pydicom", "imagecodecs", "openjpeg", "jpeg_ls", "captum", "onnx", "onnxscript"),
    *("onnxruntime", "fastapi", "uvicorn", "python_multipart", "optuna", "submitit"),
    "hydra_plugins",
)
BARE = f"""
import sys
from importlib.machinery import PathFinder
find = PathFinder.find_spec
def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in {ABSENT} else find(name, path, target)
PathFinder.find_spec = find_spec
"""


def run(code: str, *arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run code in an environment that has no extra."""
    command = [sys.executable, "-c", BARE + textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=250, cwd=cwd
    )


def test_every_module_can_be_imported():
    done = run("""
        import pkgutil, pneumonia
        behind = {"pneumonia.data.dicom", "pneumonia.inference.server"}  # imported when needed
        for module in pkgutil.walk_packages(pneumonia.__path__, "pneumonia."):
            if module.name not in behind:
                __import__(module.name)
    """)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_the_core_trains_and_predicts(tmp_path):
    done = run(
        """
        sys.argv[0] = "train.py"
        import runpy
        runpy.run_path("train.py", run_name="__main__")
        """,
        "experiment=quickstart",
        "data.images=200",
        "data.image_size=32",
        "trainer.max_epochs=2",
        "evaluation.operating_point=youden",
        f"data.root={tmp_path / 'synthetic'}",
        f"hydra.run.dir={tmp_path / 'run'}",
    )
    assert done.returncode == 0, done.stderr
    done = run(
        "from pneumonia.cli import main; main()",
        "predict",
        "--checkpoint",
        tmp_path / "run/checkpoints/best.ckpt",
        tmp_path / "synthetic/test",
    )
    assert done.returncode == 0, done.stderr
    assert "PNEUMONIA" in done.stdout
