"""`pneumonia predict`: one row per file, in order; interrupted tables are resumed."""

import csv
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from runs import rows_of

from pneumonia.inference.batch_predict import COLUMNS
from pneumonia.inference.predictor import Predictor


def test_one_row_per_file_in_name_order_with_the_predictions_of_the_model(
    predict, images, checkpoint_file, tmp_path
):
    out = tmp_path / "new" / "out.csv"
    assert predict(images[0].parent, images[2], "--out", out, "--batch-size", 3) == 0
    rows = rows_of(out)
    assert tuple(rows[0]) == COLUMNS
    assert [row["path"] for row in rows] == list(map(str, images))
    classifier = Predictor.load(checkpoint_file)
    expected = classifier.probabilities(classifier.logits([str(path) for path in images]))
    np.testing.assert_allclose([float(row["probability"]) for row in rows], expected, atol=1e-4)
    threshold = classifier.operating_point.threshold
    assert [row["predicted_class"] == "PNEUMONIA" for row in rows] == list(expected >= threshold)
    uncertain = classifier.abstention.uncertain(expected)
    assert [row["uncertain"] == "true" for row in rows] == list(uncertain)
    assert {row["is_ood"] for row in rows} <= {"true", "false"}
    assert {row["error"] for row in rows} == {""}


def test_a_pipe_gets_csv_and_the_summary_goes_to_standard_error(predict, images, capsys):
    assert predict(images[0]) == 0
    output, error = capsys.readouterr()
    (row,) = csv.DictReader(output.splitlines())
    assert row["path"] == str(images[0])
    assert "\n1 image" in error


def test_an_interrupted_table_is_resumed(predict, images, tmp_path):
    images[1].write_bytes(b"broken")
    whole, out = tmp_path / "whole.csv", tmp_path / "o.csv"
    assert predict(images[0].parent, "--out", whole, "--batch-size", 1) == 1
    text = whole.read_bytes()
    out.write_bytes(text[: text.index(b"3 \xc3\xa9") + 1])
    assert predict(images[0].parent, "--out", out, "--resume", "--batch-size", 1) == 1
    assert out.read_bytes() == text
    assert predict(images[0].parent, "--out", out, "--resume") == 1  # nothing is left to do
    assert out.read_bytes() == text


def test_an_existing_table_is_not_overwritten(predict, images, tmp_path, capsys):
    out = tmp_path / "o.csv"
    assert predict(images[0], "--out", out) == 0
    before = out.read_bytes()
    assert predict(images[1], "--out", out) == 2
    assert "o.csv exists" in capsys.readouterr().err
    assert out.read_bytes() == before


def test_a_table_of_another_model_is_not_resumed(
    predict, images, tmp_path, capsys, checkpoint_file
):
    out = tmp_path / "o.csv"
    assert predict(images[0], "--out", out) == 0
    other = tmp_path / "other.ckpt"
    torch.save(torch.load(checkpoint_file, weights_only=True) | {"metadata": {"other": 1}}, other)
    assert predict(images[1], "--out", out, "--resume", checkpoint=other) == 2
    assert "another model" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.jpeg"], "nowhere.jpeg does not exist"),
        (["empty"], "empty contains no images"),
        (["--resume", "."], "--out FILE"),
        (["--out", "o.txt", "."], "--out o.txt"),
        (["--shard", "17/16", "."], "--shard 17/16"),
        (["--device", "abacus", "FILE"], "device abacus"),
        (["--out", "/proc/nowhere/o.csv", "FILE"], "/proc/nowhere/o.csv"),
    ],
)
def test_a_wrong_argument_is_exit_2_and_named(
    predict, images, tmp_path, monkeypatch, capsys, arguments, message
):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    words = [str(images[0]) if word == "FILE" else word for word in arguments]
    assert predict(*words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o.txt").exists()


def test_a_full_disk_keeps_the_rows_so_far(predict, images, tmp_path, capsys):
    resource = pytest.importorskip("resource")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, usual[1]))
    try:
        assert predict(images[0].parent, "--out", tmp_path / "o.csv", "--batch-size", 1) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert "o.csv cannot be written" in capsys.readouterr().err
    assert len((tmp_path / "o.csv").read_text().splitlines()) > 3
    assert predict(images[0].parent, "--out", tmp_path / "o.csv", "--resume") == 0
    assert [row["path"] for row in rows_of(tmp_path / "o.csv")] == [str(path) for path in images]


def test_what_a_checkpoint_lacks_stays_empty_with_a_note(
    predict, images, file_without_abstention, tmp_path, capsys
):
    assert predict(images[0], "--out", tmp_path / "o.csv", checkpoint=file_without_abstention) == 0
    (row,) = rows_of(tmp_path / "o.csv")
    assert (row["uncertain"], row["is_ood"], row["ood_score"]) == ("", "", "")
    assert row["predicted_class"]
    assert "uncertain and is_ood will be empty" in capsys.readouterr().err


def test_shards_concatenate_to_the_whole(predict, images, tmp_path):
    parts = []
    for number in range(1, 9):  # more than there are images
        out = tmp_path / f"{number}.csv"
        assert predict(images[0].parent, "--shard", f"{number}/8", "--out", out) == 0
        parts += [row["path"] for row in rows_of(out)]
    assert parts == [str(path) for path in images]


def test_a_terminal_gets_text_without_control_characters(predict, images, monkeypatch, capsys):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert predict(images[0].rename(images[0].with_name("a\x1b[2Jb.jpeg"))) == 0
    output = capsys.readouterr().out
    assert "a\\x1b[2Jb.jpeg" in output
    assert "\x1b" not in output


def start(checkpoint_file, folder, out, **options):
    command = [sys.executable, "-m", "pneumonia.cli", "predict", "--checkpoint"]
    command += map(str, (checkpoint_file, folder, "--out", out, "--batch-size", 4))
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)
    until = time.monotonic() + 100
    while time.monotonic() < until and process.poll() is None:
        if out.exists() and len(out.read_bytes().splitlines()) > 20:
            return process
        time.sleep(0.01)
    raise AssertionError(process.communicate()[1])


@pytest.mark.slow
@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_stopped_it_leaves_complete_rows_and_is_resumed(
    predict, images, checkpoint_file, tmp_path, how, code
):
    folder, out = tmp_path / "many", tmp_path / "o.csv"
    folder.mkdir()
    for number in range(3000):
        (folder / f"{number:04d}.jpeg").symlink_to(images[number % 7])
    process = start(checkpoint_file, folder, out)
    process.send_signal(how)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == code, error
    assert "Traceback" not in error
    rows = rows_of(out)
    assert 20 <= len(rows) < 3000
    assert all(row["probability"] for row in rows[:-1])
    assert predict(folder, "--out", out, "--resume") == 0
    assert [row["path"] for row in rows_of(out)] == [str(path) for path in sorted(folder.iterdir())]


@pytest.mark.slow
def test_a_reader_that_leaves_early_is_no_error(images, checkpoint_file, tmp_path):
    command = f"{sys.executable} -m pneumonia.cli predict --checkpoint {checkpoint_file}"
    command += f" '{images[0].parent}' --batch-size 1 | head -1"
    done = subprocess.run(
        ["bash", "-c", command], check=True, capture_output=True, text=True, timeout=100
    )
    assert done.stdout.startswith("path,")
    assert "Traceback" not in done.stderr
