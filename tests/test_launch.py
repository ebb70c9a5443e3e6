"""The launch files run: scripts under stand-ins for the schedulers' programs, containers' commands as they are."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from langevin.generate import Shards

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "examples" / "launch"

SRUN = """#!/bin/bash
# As srun does: the command once a task, all at the same time; it fails if one does.
pids=()
for ((i = 0; i < ${SLURM_NTASKS:-1}; i++)); do SLURM_PROCID=$i "$@" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || exit 1; done
"""

SCONTROL = """#!/bin/bash
[[ "$1 $2" == "show hostnames" ]] && printf '127.0.0.1\\n127.0.0.1\\n'
"""

RAY = """
import concurrent.futures as futures
def init(): pass
def remote(num_gpus, max_retries, retry_exceptions):
    pool = futures.ThreadPoolExecutor(2)
    def wrap(function):
        class Task:
            remote = staticmethod(lambda *words: pool.submit(function, *words))
        return Task
    return wrap
def get(tasks): return [task.result() for task in tasks]
"""

SMALL = "digits --batch 8 --network.options width 8 --output.sample-every 0 --output.validate-on 16"


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """An environment with stand-ins for srun, scontrol and ray."""
    (bin_ := tmp_path / "bin").mkdir()
    (bin_ / "ray.py").write_text(RAY)
    for name, script in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (bin_ / name).write_text(script)
        (bin_ / name).chmod((bin_ / name).stat().st_mode | stat.S_IEXEC)
    for name, module in {"langevin": "langevin", "torchrun": "torch.distributed.run"}.items():
        (bin_ / name).write_text(f'#!/bin/sh\nexec {sys.executable} -m {module} "$@"\n')
        (bin_ / name).chmod((bin_ / name).stat().st_mode | stat.S_IEXEC)
    path = f"{bin_}:{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PORT": "29561"}


def run(words: list[object], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    line = [str(word) for word in words]
    return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)


def good(words: list[object], environment: dict[str, str]) -> str:
    done = run(words, environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def jobs() -> dict[str, list[dict[str, Any]]]:
    return {path.name: list(yaml.safe_load_all(path.read_text())) for path in sorted(LAUNCH.glob("*.yaml"))}


@pytest.mark.parametrize("script", sorted(LAUNCH.glob("*.sbatch")), ids=lambda path: path.name)
def test_scripts_are_bash(script: Path) -> None:
    assert run(["bash", "-n", script], dict(os.environ)).returncode == 0
    if checker := shutil.which("shellcheck"):
        assert run([checker, script], dict(os.environ)).stdout == ""
    lines = script.read_text().splitlines()
    options = [i for i, line in enumerate(lines) if line.startswith("#SBATCH")]
    first = next(i for i, line in enumerate(lines) if line and not line.startswith("#"))
    assert lines[0] == "#!/bin/bash"
    assert options
    assert max(options) < first  # Slurm reads no further than the first command


def test_jobs_are_what_the_cluster_reads() -> None:
    """The fields of batch/v1 and v1 that decide: kinds, indices, names, restarts, environments of strings, volumes."""
    found = jobs()
    assert found.keys() == {"sample-job.yaml", "train-job.yaml"}
    for documents in found.values():
        (job,) = (d for d in documents if d["kind"] == "Job")
        assert job["apiVersion"] == "batch/v1"
        spec, pod = job["spec"], job["spec"]["template"]["spec"]
        assert spec.keys() <= {
            "completionMode", "completions", "parallelism", "backoffLimit", "backoffLimitPerIndex", "template",
        }  # fmt: skip
        assert spec["completionMode"] == "Indexed"
        assert spec["completions"] == spec["parallelism"] > 1
        # An index that has a limit of its own must not restart in place.
        assert pod["restartPolicy"] == ("Never" if "backoffLimitPerIndex" in spec else "OnFailure")
        assert pod.keys() <= {"subdomain", "restartPolicy", "containers", "volumes"}
        (container,) = pod["containers"]
        assert container.keys() == {"name", "image", "command", "env", "resources", "volumeMounts"}
        assert all(isinstance(entry["value"], str) for entry in container["env"])
        assert {mount["name"] for mount in container["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
        env = {entry["name"]: entry["value"] for entry in container["env"]}
        assert int(env.get("PARTS", env.get("NODES", 0))) == spec["completions"]
        assert run(["sh", "-n", "-c", container["command"][-1]], dict(os.environ)).returncode == 0
    service, job = found["train-job.yaml"]
    name = job["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    assert job["spec"]["template"]["spec"]["subdomain"] == service["metadata"]["name"]
    env = {e["name"]: e["value"] for e in job["spec"]["template"]["spec"]["containers"][0]["env"]}
    assert env["HEAD"] == f"{name}-0.{service['metadata']['name']}"


@pytest.mark.parametrize("version", ["1.29", kubernetes_validate.latest_version()])
def test_jobs_pass_the_schemas_of_the_api(version: str) -> None:
    """Kubernetes' own, strictly: no field it does not know. From the version that has a limit for each index."""
    for documents in jobs().values():
        for document in documents:
            kubernetes_validate.validate(document, version, strict=True)
    job = jobs()["train-job.yaml"][1]
    job["spec"]["completion"] = job["spec"].pop("completions")
    with pytest.raises(kubernetes_validate.ValidationError, match="completion"):
        kubernetes_validate.validate(job, version, strict=True)


def test_ray_file_compiles() -> None:
    compile((LAUNCH / "ray_sample.py").read_text(), "ray_sample.py", "exec")


def test_train_asks_for_a_directory(cluster: dict[str, str]) -> None:
    done = run(["bash", LAUNCH / "train.sbatch", "digits"], cluster)
    assert done.returncode == 2
    assert "usage: sbatch train.sbatch DATA --out DIR" in done.stderr


def container(file: str, tmp_path: Path, cluster: dict[str, str], **own: str) -> tuple[list[str], dict[str, str]]:
    """The command of a pod as it is, in its environment with paths of ours."""
    (job,) = (d for d in jobs()[file] if d["kind"] == "Job")
    (pod,) = job["spec"]["template"]["spec"]["containers"]
    given = {entry["name"]: entry["value"] for entry in pod["env"]}
    return pod["command"], {**cluster, **given, **own}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from langevin.cli import main

    out = tmp_path_factory.mktemp("launch") / "model"
    assert main(["train", *SMALL.split(), "--out", str(out), "--steps", "2"]) == 0
    return out


SAMPLE = ["-n", 1000, "--steps", 1, "--shard-size", 256]


@pytest.mark.slow
def test_slurm_trains_on_two_machines_and_goes_on(tmp_path: Path, cluster: dict[str, str]) -> None:
    """Two launchers of one process each, that meet; and a second submission, which finds a checkpoint."""
    import langevin

    job = {"SLURM_NTASKS": "2", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[1-2]", "SLURM_JOB_ID": "7"}
    words = ["bash", LAUNCH / "train.sbatch", *SMALL.split(), "--out", tmp_path / "run"]
    for steps in (4, 6):
        good([*words, "--steps", steps, "--output.checkpoint-every", 2], {**cluster, **job, "PROCESSES": "1"})
        held = langevin.load(tmp_path / "run")
        assert (held.config["steps"], held.config["processes"]) == (steps, 2)


@pytest.mark.slow
def test_slurm_samples(tmp_path: Path, cluster: dict[str, str], model: Path) -> None:
    words = ["bash", LAUNCH / "sample.sbatch", model, *SAMPLE, "--out", tmp_path / "out"]
    for task in range(3):
        array = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_TASK_MAX": "2", "SLURM_NTASKS": "1"}
        assert ("still to come" in good(words, {**cluster, **array})) == (task < 2)
    assert not Shards(tmp_path / "out").missing()


@pytest.mark.slow
def test_kubernetes_samples(tmp_path: Path, cluster: dict[str, str], model: Path) -> None:
    """Two of the eight pods draw the shards of their indices, of fifty thousand samples and a tiny model."""
    for index in (0, 5):
        own = {"MODEL": str(model), "OUT": str(tmp_path / "out"), "JOB_COMPLETION_INDEX": str(index)}
        command, environment = container("sample-job.yaml", tmp_path, cluster, **own)
        assert "still to come" in good(command, environment)
    missing = set(Shards(tmp_path / "out").missing())
    assert missing == {k for k in range(49) if k % 8 not in (0, 5)}


@pytest.mark.slow
def test_kubernetes_trains(tmp_path: Path, cluster: dict[str, str]) -> None:
    """The command as it is but for its size: one pod of two processes, twice."""
    import langevin

    own = {"DATA": "digits", "OUT": str(tmp_path / "run"), "NODES": "1", "PROCESSES": "2", "HEAD": "127.0.0.1"}
    command, environment = container("train-job.yaml", tmp_path, cluster, **own)
    for steps in (3, 5):
        few = f"--steps {steps} --network.options width 8 --output.sample-every 0 --output.checkpoint-every 1"
        good([*command[:-1], command[-1].replace("--steps 500000", few)], environment)
        assert langevin.load(tmp_path / "run").config["steps"] == steps


@pytest.mark.slow
def test_ray_samples(tmp_path: Path, cluster: dict[str, str], model: Path) -> None:
    """By a stand-in for ray that runs its tasks in threads."""
    words = [LAUNCH / "ray_sample.py", "--parts", 2, "--", model, *SAMPLE, "--out", tmp_path / "out"]
    paths = os.pathsep.join([str(tmp_path / "bin"), cluster.get("PYTHONPATH", "")])
    good([sys.executable, *words], {**cluster, "PYTHONPATH": paths})
    assert not Shards(tmp_path / "out").missing()
