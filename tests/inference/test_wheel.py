"""The wheel is complete: it predicts without the checkout."""

import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import pneumonia

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "pneumonia"


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with the sdist and the wheel built from it."""
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    return out


@pytest.mark.slow
def test_sdist_and_wheel_are_complete(built):
    (sdist,), (wheel,) = built.glob("*.tar.gz"), built.glob("*.whl")
    assert f"-{pneumonia.__version__}" in sdist.name
    assert f"-{pneumonia.__version__}-" in wheel.name
    with tarfile.open(sdist) as archive:
        tops = {name.split("/")[1] for name in archive.getnames() if "/" in name}
    assert tops >= {"pneumonia", "conf", "tests", "train.py", "README.md", "LICENSE"}
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    files = [file for ext in ("*.py", "*.jinja", "*.html") for file in PACKAGE.rglob(ext)]
    assert {str(file.relative_to(ROOT)) for file in files} <= set(names)
    assert {name.split("/")[0] for name in names} == {
        "pneumonia",
        f"pneumonia-{pneumonia.__version__}.dist-info",
    }


@pytest.mark.slow
def test_the_wheel_predicts_a_synthetic_image_in_a_fresh_environment(
    built, checkpoint_file, synthetic, tmp_path
):
    home = tmp_path / "env"
    venv.create(home, with_pip=True)
    python = home / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    paths = [sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)})]
    # Uses the dependencies of this environment, which are gigabytes, but not its package.
    (Path(paths[0]) / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (wheel,) = built.glob("*.whl")
    install = [python, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", wheel]
    subprocess.run(install, check=True, timeout=200)
    image = next((synthetic / "test/NORMAL").iterdir())
    command = [python.with_name("pneumonia"), "predict", "--checkpoint", checkpoint_file, image]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, timeout=200, cwd=tmp_path
    )
    assert str(image) in done.stdout
    where = [python, "-c", "import pneumonia; print(pneumonia.__file__)"]
    found = subprocess.run(where, check=True, capture_output=True, text=True, cwd=tmp_path)
    assert found.stdout.startswith(str(home))
