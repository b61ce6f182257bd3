"""The README's commands are real ones."""

import os
import re
import shlex
import subprocess
from pathlib import Path
from string import Template

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from pneumonia.training.config import register_resolvers

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
LINES = [
    line.partition("  #")[0].strip()
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
]
COMMANDS = [
    f"python {line[line.index('train.py') :]}"
    for line in LINES
    if line.startswith(("python train.py", "torchrun ", "srun "))
]
SLURM = {  # what SLURM puts into the environment of a batch script
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_CPUS_PER_TASK": "8",
    "SLURM_JOB_ID": "4242",
    "SLURM_NNODES": "2",
    "SLURM_NTASKS_PER_NODE": "4",
}


@pytest.mark.parametrize(
    "command",
    [
        "pip install -e . && python train.py experiment=quickstart",
        'pip install -e ".[dev]" && pytest',
    ],
)
def test_the_two_commands_stand_in_the_quick_start(command):
    quick_start = README.partition("## Quick start")[2].partition("\n## ")[0]
    assert f"\n{command}\n" in quick_start


def test_nothing_is_left_to_fill_in():
    assert not re.search(r"\bTODO\b|\bTBD\b|[A-Z]+_TABLE", README)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_training_command_composes(command):
    own = {"run": "runs/job-4242", "resume": "false"}  # variables of the batch script itself
    command = Template(command).substitute(SLURM | own)
    words = [word for word in shlex.split(command)[2:] if not word.startswith("-")]
    overrides = [word.partition(",")[0] for word in words]  # the first point of a sweep
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert compose("train", overrides)["model"]


@pytest.fixture(name="cluster")
def cluster_fixture(tmp_path):
    """Runs a script of the README where commands of a cluster only note what they are given."""

    def run(script, tools, codes=()):
        for tool in tools:
            code = dict(codes).get(tool, 0)
            (tmp_path / tool).write_text(f'#!/bin/sh\necho {tool} "$@" >> notes\nexit {code}\n')
            (tmp_path / tool).chmod(0o755)
        (tmp_path / "notes").unlink(missing_ok=True)
        environment = SLURM | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        subprocess.run(["bash", "-uc", script], cwd=tmp_path, env=environment, check=False)
        return (tmp_path / "notes").read_text().splitlines()

    return run


@pytest.mark.skipif(os.name == "nt", reason="needs bash")
@pytest.mark.parametrize("block", BLOCKS)
def test_every_script_is_sound_bash(block):
    subprocess.run(["bash", "-n"], input=block, text=True, check=True)


@pytest.mark.skipif(os.name == "nt", reason="needs bash")
def test_the_batch_script_starts_resumes_and_requeues(cluster, tmp_path):
    (script,) = [block for block in BLOCKS if "#SBATCH" in block]
    assert set(re.findall(r"SLURM_\w+", script)) <= SLURM.keys()
    tools = ("srun", "scontrol")
    (started,) = cluster(script, tools)
    assert "resume=false trainer=ddp trainer.num_nodes=2 trainer.devices=4" in started
    (tmp_path / "runs" / "job-4242" / "checkpoints").mkdir(parents=True)
    (tmp_path / "runs" / "job-4242" / "checkpoints" / "last.ckpt").touch()
    resumed, requeued = cluster(script, tools, {"srun": 138})
    assert "resume=true" in resumed
    assert requeued == "scontrol requeue 4242"
    assert len(cluster(script, tools, {"srun": 1})) == 1


@pytest.mark.skipif(os.name == "nt", reason="needs bash")
def test_the_parts_of_the_array_job_are_joined_into_one_table(cluster, tmp_path):
    (block,) = [block for block in BLOCKS if "sbatch --array" in block]
    for number in range(1, 17):
        (tmp_path / f"part-{number}.csv").write_text(f"path,answer\n{number}.png,x\n")
    job = " ".join(cluster(block, ["sbatch"])).replace("\\ ", "")
    assert "--array=1-16" in job
    assert "--shard $SLURM_ARRAY_TASK_ID/16 --out part-$SLURM_ARRAY_TASK_ID.csv" in job
    answers = (tmp_path / "answers.csv").read_text().splitlines()
    assert answers == ["path,answer", *(f"{number}.png,x" for number in range(1, 17))]


def test_it_says_that_it_is_no_medical_device():
    assert "not a medical device" in README.lower()
