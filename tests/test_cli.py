"""The command line: exit codes, one sentence for a mistake, and a quick --help."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


def test_audit_passes_a_sound_set_and_writes_what_it_found(run, kaggle, tmp_path, capsys):
    report = tmp_path / "new é/audit.json"
    assert run("data", "audit", kaggle, "--json", report) == 0
    assert "Errors: 0" in capsys.readouterr().out
    written = json.loads(report.read_text())
    assert written["errors"] == []
    assert written["images"] == sum(count["images"] for count in written["counts"])


def test_audit_exits_1_on_errors(run, kaggle, capsys):
    victim = next((kaggle / "train/NORMAL").iterdir())
    victim.write_bytes(b"")
    assert run("data", "audit", kaggle) == 1
    assert victim.name in capsys.readouterr().out


@pytest.mark.parametrize("debug", [False, True])
def test_no_data_set_is_exit_2_and_a_sentence(run, tmp_path, capsys, debug):
    arguments = ["data", "audit", tmp_path / "missing", *["--debug"] * debug]
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert "missing does not exist" in error
    assert ("Traceback" in error) == debug


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--patients", "(", "data.patients="),
        ("--json", "/proc/nowhere/audit.json", "/proc/nowhere"),
    ],
)
def test_audit_options_are_checked(run, kaggle, capsys, option, value, message):
    assert run("data", "audit", kaggle, option, value) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["squash", "pad", "crop"])
def test_show_draws_every_resize_mode(run, synthetic, tmp_path, mode):
    out = tmp_path / "views.png"
    arguments = ("--out", out, "--resize-mode", mode, "--image-size", 64, "--images", 2)
    assert run("data", "show", synthetic, *arguments) == 0
    with Image.open(out) as picture:
        assert (picture.width, picture.height) == (6 * 68, 4 * 68)


def test_interrupt_is_130(run, kaggle, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pneumonia.data.audit.checks.audit", interrupted)
    assert run("data", "audit", kaggle) == 130


def test_audit_never_imports_torch(kaggle):
    code = (
        "import sys\nfrom pneumonia import cli\nsys.argv[1:] = ['data', 'audit', sys.argv[1]]\n"
        "try: cli.main()\nexcept SystemExit: print('torch' in sys.modules)"
    )
    lines = subprocess.run(
        [sys.executable, "-c", code, str(Path(kaggle))], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert lines[-1] == "False"


def test_download_leaves_a_folder_that_is_another_set_alone(run, kaggle, capsys):
    before = sorted(kaggle.rglob("*"))
    assert run("data", "download", kaggle) == 2
    assert str(kaggle) in capsys.readouterr().err
    assert sorted(kaggle.rglob("*")) == before
