"""The table of runs: what is read, how it is ranked, and what damaged runs look like."""

import subprocess
import sys

import pytest
import yaml
from typer.testing import CliRunner

from pneumonia.cli import app
from pneumonia.errors import DataError
from pneumonia.training.run_record import RunSummary, write_run_summary
from pneumonia.training.sweep.leaderboard import differing_keys, group_runs, read_runs


@pytest.fixture(name="make")
def make_fixture(tmp_path):
    """Writes a run directory as training leaves it; `score=None` leaves it unfinished."""

    def make(name, score=0.9, monitor="val/auroc", mode="max"):
        directory = tmp_path / "runs" / name
        (directory / "checkpoints").mkdir(parents=True)
        (directory / ".hydra").mkdir()
        config = {"monitor": monitor, "mode": mode}
        (directory / "config.yaml").write_text(yaml.safe_dump(config))
        (directory / "checkpoints" / "last.ckpt").touch()
        if score is not None:
            (directory / "checkpoints" / "best.ckpt").touch()
            summary = RunSummary(status="finished", monitor=monitor, mode=mode, score=score)
            write_run_summary(directory, summary)
        return directory

    return make


def only(runs):
    (group,) = group_runs(runs)
    return group


def names(runs):
    return [run.directory.name for run in runs]


def show(*arguments):
    done = CliRunner().invoke(app, ["runs", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize(("mode", "order"), [("max", ["b", "c", "a"]), ("min", ["a", "c", "b"])])
def test_the_best_comes_first_by_the_runs_own_mode(make, tmp_path, mode, order):
    for name, score in (("a", 0.7), ("b", 0.9), ("c", 0.8)):
        make(name, score, mode=mode)
    assert names(only(read_runs(tmp_path))) == order


def test_settings_of_the_command_line_that_differ_are_shown(make, tmp_path):
    for name, lr in (("a", "1e-3"), ("b", "1e-4")):
        file = make(name) / ".hydra" / "overrides.yaml"
        file.write_text(f"- seed=1\n- model.optimizer.lr={lr}\n- +x={lr}\n")
    assert differing_keys(read_runs(tmp_path)) == ["model.optimizer.lr", "x"]


def test_runs_with_different_monitors_are_separate(make, tmp_path):
    make("a", 0.9)
    make("b", 0.1, monitor="val/loss", mode="min")
    assert [names(group) for group in group_runs(read_runs(tmp_path))] == [["a"], ["b"]]
    assert "val/loss" in show(tmp_path)


def test_an_unfinished_run_shows_its_progress_and_where_to_resume(make, tmp_path):
    directory = make("killed", None)
    for version, rows in enumerate(("0,9,0.7\n,9,\n1,19,0.8\n2", "1,19,0.8\n2,29,0.75\n3")):
        folder = directory / "csv" / f"version_{version}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(f"epoch,step,val/auroc\n{rows}")
    (found,) = read_runs(tmp_path)
    assert (found.status, found.metrics["score"], found.metrics["epochs"]) == ("unfinished", 0.8, 3)
    assert found.checkpoint == directory / "checkpoints" / "last.ckpt"


def test_a_failed_run_says_why(tmp_path):
    directory = tmp_path / "runs" / "failed"
    (directory / ".hydra").mkdir(parents=True)
    (directory / ".hydra" / "config.yaml").write_text("monitor: val/auroc\n")
    (directory / ".hydra" / "overrides.yaml").write_text("- data.batch_size=5000\n")
    write_run_summary(directory, RunSummary(status="failed", error="the batch is too large."))
    (found,) = read_runs(tmp_path)
    assert (found.status, found.settings["data.batch_size"]) == ("failed", "5000")
    assert "failed: the batch is too large." in show(tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.yaml", b"\xff\xfe\x00seed"),
        ("summary.json", b'{"status": "finis'),
        ("summary.json", b'{"status": "finished", "score": 1' + b"0" * 400 + b"}"),
    ],
)
def test_a_damaged_run_is_listed_with_what_is_wrong(make, tmp_path, file, content):
    make("whole")
    (make("broken") / file).write_bytes(content)
    runs = {run.directory.name: run for run in read_runs(tmp_path)}
    assert runs["whole"].status == "finished"
    assert runs["broken"].status == "damaged"
    assert runs["broken"].note
    assert "broken damaged:" in show(tmp_path)


@pytest.mark.parametrize(
    "summary",
    [
        {"status": "finished", "score": "high", "epochs": "many", "seconds": None, "mode": 3},
        {"status": "finished", "score": float("inf")},
    ],
)
def test_unusable_metrics_are_left_blank(make, tmp_path, summary):
    make("good", 0.1)
    write_run_summary(make("odd"), {"monitor": "val/auroc", "mode": "max"} | summary)
    odd = next(run for run in read_runs(tmp_path) if run.directory.name == "odd")
    assert odd.metrics["score"] is None
    show(tmp_path)


def test_other_folders_are_ignored(make, tmp_path):
    make("a")
    (tmp_path / "runs" / "site").mkdir()
    (tmp_path / "runs" / "site" / "config.yaml").write_text("title: A site\n")
    (tmp_path / "runs" / ".trash").mkdir()
    assert names(only(read_runs(tmp_path))) == ["a"]


@pytest.mark.parametrize("folder", [".", "nowhere"])
def test_a_directory_without_runs_is_refused(tmp_path, folder):
    with pytest.raises(DataError, match=str(tmp_path / folder)):
        read_runs(tmp_path / folder)


def test_it_needs_neither_torch_nor_hydra(make, tmp_path):
    make("a")
    code = (
        "import sys; from pneumonia.cli import app\n"
        f"app(['runs', {str(tmp_path)!r}], standalone_mode=False)\n"
        "print({'torch', 'hydra', 'lightning', 'omegaconf'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_real_run_records_what_the_table_needs(finished):
    (found,) = read_runs(finished.parent)
    assert (found.status, found.metrics["epochs"]) == ("finished", 2)
    assert 0 < found.metrics["score"] <= 1
    assert found.metrics["seconds"] > 0
    assert found.checkpoint == finished / "checkpoints" / "best.ckpt"
