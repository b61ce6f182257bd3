"""The commands and scripts in the README work."""

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
SLURM = {  # variables that SLURM sets for a batch script
    "SLURM_ARRAY_TASK_ID": "3",
    "SLURM_CPUS_PER_TASK": "8",
    "SLURM_JOB_ID": "4242",
    "SLURM_NNODES": "2",
    "SLURM_NTASKS_PER_NODE": "4",
}
BASH = pytest.mark.skipif(os.name == "nt", reason="needs bash")


@pytest.mark.parametrize(
    "command",
    [
        "pip install -e . && python train.py experiment=quickstart",
        'pip install -e ".[dev]" && pytest',
    ],
)
def test_quick_start_has_the_two_commands(command):
    quick_start = README.partition("## Quick start")[2].partition("\n## ")[0]
    assert f"\n{command}\n" in quick_start


def test_readme_says_that_this_is_not_a_medical_device():
    assert "not a medical device" in README.lower()


@pytest.mark.parametrize("command", COMMANDS)
def test_training_commands_compose(command):
    own = {"run": "runs/job-4242", "resume": "false"}  # variables of the batch script itself
    command = Template(command).substitute(SLURM | own)
    words = [word for word in shlex.split(command)[2:] if not word.startswith("-")]
    overrides = [word.partition(",")[0] for word in words]  # the first point of a sweep
    register_resolvers()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        assert compose("train", overrides)["model"]


@BASH
@pytest.mark.parametrize("block", BLOCKS)
def test_scripts_are_valid_bash(block):
    subprocess.run(["bash", "-n"], input=block, text=True, check=True)


@pytest.fixture
def run_script(tmp_path):
    """Runs a script with commands of a cluster that only record their arguments."""

    def run(script, tools, codes=()):
        for tool in tools:
            code = dict(codes).get(tool, 0)
            (tmp_path / tool).write_text(f'#!/bin/sh\necho {tool} "$@" >> calls\nexit {code}\n')
            (tmp_path / tool).chmod(0o755)
        (tmp_path / "calls").unlink(missing_ok=True)
        environment = SLURM | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
        subprocess.run(["bash", "-uc", script], cwd=tmp_path, env=environment, check=False)
        return (tmp_path / "calls").read_text().splitlines()

    return run


@BASH
@pytest.mark.parametrize("script", [block for block in BLOCKS if "#SBATCH" in block])
def test_batch_script_starts_resumes_and_requeues(run_script, tmp_path, script):
    assert set(re.findall(r"SLURM_\w+", script)) <= SLURM.keys()
    tools = ("srun", "scontrol")
    (started,) = run_script(script, tools)
    assert "resume=false trainer=ddp trainer.num_nodes=2 trainer.devices=4" in started
    checkpoints = tmp_path / "runs" / "job-4242" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "last.ckpt").touch()
    resumed, requeued = run_script(script, tools, {"srun": 138})
    assert "resume=true" in resumed
    assert requeued == "scontrol requeue 4242"
    assert len(run_script(script, tools, {"srun": 1})) == 1


@BASH
@pytest.mark.parametrize("script", [block for block in BLOCKS if "sbatch --array" in block])
def test_parts_of_an_array_job_are_joined_into_one_table(run_script, tmp_path, script):
    for number in range(1, 17):
        (tmp_path / f"part-{number}.csv").write_text(f"path,x\n{number}.png,x\n")
    job = " ".join(run_script(script, ["sbatch"])).replace("\\ ", "")
    assert "--array=1-16" in job
    assert "--shard $SLURM_ARRAY_TASK_ID/16 --out part-$SLURM_ARRAY_TASK_ID.csv" in job
    joined = (tmp_path / "answers.csv").read_text().splitlines()
    assert joined == ["path,x", *(f"{number}.png,x" for number in range(1, 17))]
