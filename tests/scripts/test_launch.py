"""The launch files: accelerate reads them, and the SLURM script turns a signal into a saved run and another job. No SLURM is needed."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.scripts.tiny import ROOT

FOLDER = ROOT / "configs" / "accelerate"

# What the script calls, as programs that write down how they were called.
TOOLS = {
    "srun": 'shift; SLURM_NODEID=0 exec "$@"',
    "scontrol": 'case "$1" in show) printf "node1\\nnode2\\n";; requeue) echo "requeue $2" >> calls;; esac',
    "scancel": 'echo "scancel $*" >> calls; kill -USR1 "$(cat pid)"',
}

# The launcher and the training in one, ending in order when told to. In Python, as bash cannot catch a signal that it was born ignoring.
ACCELERATE = """
import os, signal, sys, time
def end(*_):
    open("calls", "a").write("saved\\n")
    os._exit(int(os.environ.get("CODE", 0)))
signal.signal(getattr(signal, os.environ["CATCHES"]), end)
open("pid", "w").write(str(os.getpid()))
open("calls", "a").write(f"accelerate {' '.join(sys.argv[1:])}\\n")
time.sleep(10)
sys.exit(7)
"""


@pytest.mark.parametrize(("name", "machines", "processes"), [("one_gpu", 1, 1), ("eight_gpus", 1, 8), ("two_nodes", 2, 16)])
def test_accelerate_reads_the_launch_files(name, machines, processes):
    from accelerate.commands.config.config_args import ClusterConfig

    found = ClusterConfig.from_yaml_file(str(FOLDER / f"{name}.yaml"))
    assert (found.num_machines, found.num_processes, found.use_cpu, found.mixed_precision) == (machines, processes, False, "no")
    assert found.distributed_type == ("NO" if processes == 1 else "MULTI_GPU")


@pytest.fixture
def submit(tmp_path):
    """submit(nodes, **environment): the script as a running job, once the training has begun."""
    (tmp_path / "bin").mkdir()
    tools = {name: f"#!/bin/bash\n{body}\n" for name, body in TOOLS.items()} | {"accelerate": f"#!{sys.executable}\n{ACCELERATE}"}
    for name, program in tools.items():
        (tmp_path / "bin" / name).write_text(program)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text("")

    def run(nodes, **environment):
        job = {
            "SLURM_SUBMIT_DIR": str(tmp_path),
            "SLURM_JOB_ID": "42",
            "SLURM_JOB_NODELIST": "node[1-2]",
            "SLURM_JOB_NUM_NODES": str(nodes),
        }
        job |= {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", **environment}
        script = subprocess.Popen(["bash", str(FOLDER / "slurm.sh"), "--config", "mine.json"], env=job, cwd=tmp_path)
        end = time.monotonic() + 20
        while not (tmp_path / "calls").exists() and time.monotonic() < end:
            time.sleep(0.01)
        return script

    return run


def calls(folder):
    return (folder / "calls").read_text().splitlines()


def test_before_the_time_is_up_the_run_saves_and_the_job_is_queued_again(submit, tmp_path):
    job = submit(2, CATCHES="SIGUSR1")
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 0
    begun, *rest = calls(tmp_path)
    assert rest == ["scancel --signal=USR1 42", "saved", "requeue 42"]
    expected = (
        "--machine_rank 0 --config_file configs/accelerate/two_nodes.yaml --num_machines 2 --num_processes 16 --main_process_ip node1"
    )
    assert begun == f"accelerate launch {expected} scripts/train.py --config mine.json --checkpoint latest"


def test_a_run_that_fails_is_not_queued_again(submit, tmp_path):
    job = submit(1, CATCHES="SIGUSR1", CODE="2", SLURM_GPUS_ON_NODE="4")
    job.send_signal(signal.SIGUSR1)
    assert job.wait(20) == 2
    assert calls(tmp_path)[1:] == ["scancel --signal=USR1 42", "saved"]
    assert "eight_gpus.yaml --num_machines 1 --num_processes 4" in calls(tmp_path)[0]


def test_the_launcher_itself_ignores_the_signal(submit, tmp_path):
    """Started with the signal ignored, a program that does not ask for it never sees it; training processes ask."""
    job = submit(1, CATCHES="SIGTERM")
    job.send_signal(signal.SIGUSR1)
    time.sleep(0.3)
    assert job.poll() is None and "saved" not in calls(tmp_path)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    assert job.wait(20) == 0 and calls(tmp_path)[1:] == ["scancel --signal=USR1 42", "saved", "requeue 42"]
