"""Clusters: how a process finds its slot, a real Slurm of two nodes, launch/'s templates by their own validators."""

import dataclasses
import http.server
import json
import os
import shutil
import socket
import string
import subprocess
import sys
import threading
import time
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from launch.cluster import slots
from launch.cluster.slots import ProcessSlot, detect
from train.fields import ConfigError

pytestmark = pytest.mark.timeout(500)
ROOT = Path(__file__).parents[2]


# --- the slot of this process -----------------------------------------------------------------------------------------

SLURM = {
    "SLURM_JOB_ID": "4211", "SLURM_STEP_ID": "0", "SLURM_STEP_NODELIST": "gpu[003-004,9]", "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "5", "SLURM_LOCALID": "1",
}  # fmt: skip


def test_a_process_alone_has_no_seat():
    batch_step = {k: v for k, v in SLURM.items() if "STEP" not in k and "PROCID" not in k}
    one_task = SLURM | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1", "SLURM_PROCID": "0"}
    for environment in ({}, batch_step, one_task, {"OMPI_COMM_WORLD_SIZE": "1"}, {"TPU_WORKER_HOSTNAMES": "localhost"}):
        assert detect(environment) is None
    by_hand = {"SKALD_COORDINATOR": "a:1", "SKALD_PROCESSES": "1", "SKALD_PROCESS": "0"}
    assert detect(by_hand) is None


def test_slurm_gives_each_task_its_accelerator_and_a_task_a_node_all_of_them():
    slot = detect(SLURM)
    assert (slot.num_processes, slot.process_id, slot.local_device) == (8, 5, 1)
    host, port = slot.coordinator.split(":")
    assert host == "gpu003" and 61440 <= int(port) <= 65535
    assert detect(SLURM | {"SLURM_STEP_ID": "1"}).coordinator != slot.coordinator, "two runs in one job"
    assert detect(SLURM | {"CUDA_VISIBLE_DEVICES": "0"}).local_device is None, "--gpus-per-task shows it one only"
    assert detect(SLURM | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}).local_device == 1
    assert detect(SLURM | {"SLURM_STEP_NUM_NODES": "8"}).local_device is None


@pytest.mark.parametrize(
    "nodes,first",
    [
        ("n1", "n1"),
        ("n1,n2", "n1"),
        ("gpu[003-007,9],login1", "gpu003"),
        ("rack2-n[12]", "rack2-n12"),
        ("a[4,6]", "a4"),
    ],
)
def test_the_first_host_of_a_node_list(nodes, first):
    assert slots.first_host(nodes) == first


def test_open_mpi_and_what_is_set_by_hand_stands_first():
    ranks = {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
             "OMPI_COMM_WORLD_LOCAL_RANK": "1"}  # fmt: skip
    with pytest.raises(ConfigError, match="SKALD_COORDINATOR=host:port"):
        detect(ranks)
    old = detect(ranks | {"OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1:34911"})
    assert (old.detection_method, old.num_processes, old.process_id, old.local_device) == ("ompi", 4, 3, 1)
    assert detect(ranks | {"SKALD_COORDINATOR": "n1:99"}) == ProcessSlot(4, 3, "n1:99", local_device=1)


def test_half_a_seat_is_refused_with_what_is_missing():
    complete = {"SKALD_COORDINATOR": "n1:99", "SKALD_PROCESSES": "2", "SKALD_PROCESS": "1"}
    assert detect(complete) == ProcessSlot(2, 1, "n1:99")
    wrong = [({"SKALD_PROCESS": ""}, "SKALD_PROCESS is not set"), ({"SKALD_COORDINATOR": "n1"}, "host:port"),
             ({"SKALD_PROCESS": "2"}, "go from 0"), ({"SKALD_PROCESSES": "two"}, "go from 0")]  # fmt: skip
    for change, message in wrong:
        with pytest.raises(ConfigError, match=message):
            detect(complete | change)


@pytest.fixture
def metadata_server():
    """Starts a metadata server like a TPU VM's. Returns its attributes, and the variable with its address."""
    attributes = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.rpartition("/")[2]
            self.send_response(200 if name in attributes and self.headers["Metadata-Flavor"] == "Google" else 404)
            self.end_headers()
            self.wfile.write(attributes.get(name, "").encode())

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield attributes, {"GCE_METADATA_IP": f"127.0.0.1:{server.server_port}"}
    server.shutdown()


def test_workers_of_a_tpu(metadata_server):
    attributes, environment = metadata_server
    assert slots.tpu(environment) is None, "no metadata, as on a machine of one's own"
    attributes |= {"worker-network-endpoints": "u:8470:10.0.0.2,u:8470:10.0.0.3", "agent-worker-number": "1"}
    assert slots.tpu(environment) == ProcessSlot(2, 1, detection_method=None)
    attributes["tpu-env"] = "TYPE: 'v5e'\nMEGASCALE_NUM_SLICES: '3'\nMEGASCALE_SLICE_ID: '2'\n"
    assert slots.tpu(environment) == ProcessSlot(6, 5, detection_method=None)
    attributes["worker-network-endpoints"] = "u:8470:10.0.0.2"
    del attributes["tpu-env"]
    assert slots.tpu(environment) is None
    pods = {"TPU_WORKER_HOSTNAMES": "a,b,c,d", "TPU_WORKER_ID": "3"}
    assert slots.tpu(pods) == ProcessSlot(4, 3, detection_method=None)
    assert slots.tpu(pods | {"MEGASCALE_NUM_SLICES": "2", "MEGASCALE_SLICE_ID": "1"}) == ProcessSlot(
        8, 7, detection_method=None
    )


# --- templates --------------------------------------------------------------------------------------------------------


def test_shell_scripts_are_clean():
    scripts = [*ROOT.glob("launch/**/*.sh"), *ROOT.glob("launch/**/*.sbatch"), ROOT / ".ci" / "run"]
    assert len(scripts) >= 4
    result = subprocess.run([Path(sys.executable).parent / "shellcheck", *scripts], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


# The fields of a JobSet (jobset.x-k8s.io/v1alpha2) that ours may use; None: anything, checked below or free.
JOBSET = {
    "apiVersion": None, "kind": None, "metadata": {"name": None, "annotations": None},
    "spec": {
        "failurePolicy": {
            "maxRestarts": None, "rules": [{"name": None, "action": None, "onJobFailureReasons": None}],
        },
        "replicatedJobs": [{"name": None, "replicas": None, "template": {"spec": None}}],
    },
}  # fmt: skip


def unknown_fields(value, schema, path="") -> list[str]:
    """Paths of the fields of `value` that are not in the schema."""
    if isinstance(schema, list):
        return [field for item in value for field in unknown_fields(item, schema[0], path)]
    if schema is None:
        return []
    inner = [
        field
        for name in value
        if name in schema
        for field in unknown_fields(value[name], schema[name], f"{path}.{name}")
    ]
    return [f"{path}.{name}" for name in value if name not in schema] + inner


@pytest.fixture
def jobset() -> dict:
    """launch/gke/jobset.yaml with its variables filled in as its head says."""
    variables = {"NAME": "llama", "IMAGE": "somewhere/skald", "CLAIM": "runs", "CONFIG": "llama:8b", "TOPOLOGY": "4x4",
                 "ACCELERATOR": "tpu-v5-lite-podslice", "SLICES": "2", "HOSTS": "4", "CHIPS": "4"}  # fmt: skip
    return yaml.safe_load(string.Template((ROOT / "launch/gke/jobset.yaml").read_text()).substitute(variables))


def test_the_job_set_is_strictly_valid(jobset):
    assert (jobset["apiVersion"], jobset["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert not unknown_fields(jobset, JOBSET)
    (slices,) = jobset["spec"]["replicatedJobs"]
    job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": slices["template"]["spec"]}
    kubernetes_validate.validate(job, "1.34", strict=True)
    job["spec"]["template"]["spec"]["restartPolcy"] = "Never"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(job, "1.34", strict=True)


def test_the_job_set_means_what_a_run_needs(jobset):
    """Checks what no schema does: one run of all hosts, started again after status 75, with time to save."""
    (slices,) = jobset["spec"]["replicatedJobs"]
    job = slices["template"]["spec"]
    pod = job["template"]["spec"]
    assert (slices["replicas"], job["completions"], job["parallelism"], job["completionMode"]) == (2, 4, 4, "Indexed")
    assert job["backoffLimit"] == 0 and pod["restartPolicy"] == "Never"
    saved, moved = job["podFailurePolicy"]["rules"]
    (container,) = pod["containers"]
    assert saved["action"] == moved["action"] == "FailJob"
    assert saved["onExitCodes"] == {"containerName": container["name"], "operator": "In", "values": [75]}
    (rule,) = jobset["spec"]["failurePolicy"]["rules"]
    assert (rule["action"], rule["onJobFailureReasons"]) == ("RestartJobSetAndIgnoreMaxRestarts", ["PodFailurePolicy"])
    assert pod["terminationGracePeriodSeconds"] >= 120
    assert set(pod["nodeSelector"]) == {"cloud.google.com/gke-tpu-accelerator", "cloud.google.com/gke-tpu-topology"}
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert container["args"] == ["train", "llama:8b", "--run-dir", "/runs/llama"]


GCLOUD = """#!/usr/bin/env bash
# Two workers on this machine, a home folder each: what is sent to a worker is done in its home.
shift 3
verb=$1; shift
while [ $# -gt 0 ]; do
  case $1 in
    --worker) worker=$2; shift ;; --command) command=$2; shift ;; --zone) shift ;; *) arguments+=("$1") ;;
  esac
  shift
done
if [ "$worker" = all ]; then workers="0 1"; else workers=$worker; fi
for index in $workers; do
  if [ "$verb" = scp ]; then cp "${arguments[0]}" "$WORKERS/$index/${arguments[1]#*:}"
  else (cd "$WORKERS/$index" && HOME=$PWD bash -c "$command"); fi
done
"""
LOCAL = """mkdir -p .venv/bin
cat >.venv/bin/skald <<'end'
#!/usr/bin/env bash
printf '<%s>' "$@"
trap 'echo stopped; exit 75' TERM
while true; do sleep 0.1; done
end
chmod +x .venv/bin/skald
"""


def test_the_tpu_vm_script_starts_on_every_worker_and_stops_them(tmp_path):
    """With a fake gcloud that runs commands on this machine, and a checkout whose skald prints its arguments."""
    for name, text in (("bin/gcloud", GCLOUD), ("checkout/launch/local.sh", LOCAL)):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    shutil.copytree(ROOT / "launch" / "tpu_vm", tmp_path / "checkout" / "launch" / "tpu_vm")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "-C", str(tmp_path / "checkout")]
    for arguments in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "all"]):
        subprocess.run([*git, *arguments], check=True)
    workers = [tmp_path / "workers" / index for index in "01"]
    for worker in workers:
        worker.mkdir(parents=True)
    environment = {**os.environ, "TPU": "mine", "ZONE": "here", "WORKERS": str(tmp_path / "workers"),
                   "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}  # fmt: skip

    def script(*arguments):
        command = ["bash", str(tmp_path / "checkout/launch/tpu_vm/train.sh"), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    result = script("start", "llama:8b", "--set", "evaluation.prompt=it's a $HOME")
    assert result.returncode == 0, result.stderr
    logs = [worker / "skald" / "train.log" for worker in workers]
    wait_for(lambda: all(log.is_file() and log.read_text() for log in logs), 20)
    assert all(log.read_text() == "<train><llama:8b><--set><evaluation.prompt=it's a $HOME>" for log in logs)
    assert script("stop").returncode == 0
    wait_for(lambda: all("stopped" in log.read_text() for log in logs), 20)
    assert script().returncode == 2 and "start llama:8b" in script().stdout


def wait_for(condition, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


# --- Slurm ------------------------------------------------------------------------------------------------------------

NODES = ("skald1", "skald2")


def slurm_config(folder: Path, ports: list[int]) -> str:
    """slurm.conf of two nodes on this machine. A requeued job waits for a credential to expire: 10 s."""
    host = socket.gethostname().split(".")[0]
    lines = [
        "ClusterName=skald", f"SlurmctldHost={host}(127.0.0.1)", f"SlurmctldPort={ports[0]}", "SlurmUser=root",
        "SlurmdUser=root", "AuthType=auth/munge", f"AuthInfo=socket={folder}/munge/socket,cred_expire=10",
        "MpiDefault=none",
        f"StateSaveLocation={folder}/state", f"SlurmdSpoolDir={folder}/spool-%n", f"SlurmctldPidFile={folder}/ctld.pid",
        f"SlurmdPidFile={folder}/slurmd-%n.pid", f"SlurmctldLogFile={folder}/ctld.log", "SwitchType=switch/none",
        f"SlurmdLogFile={folder}/slurmd-%n.log", "ProctrackType=proctrack/linuxproc", "TaskPlugin=task/none",
        "JobAcctGatherType=jobacct_gather/none", "SelectType=select/cons_tres", "SelectTypeParameters=CR_Core",
        "ReturnToService=2", "JobRequeue=1", "KillWait=30", "SchedulerParameters=requeue_delay=0",
        "SlurmdParameters=config_overrides", "PropagateResourceLimits=NONE",
    ]  # fmt: skip
    lines += [
        f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=2000"
        for node, port in zip(NODES, ports[1:], strict=True)
    ]
    lines += [f"PartitionName=all Nodes={','.join(NODES)} Default=YES MaxTime=INFINITE State=UP"]
    return "\n".join(lines) + "\n"


def free_ports(count: int) -> list[int]:
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [server.getsockname()[1] for server in servers]
    for server in servers:
        server.close()
    return ports


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    """Starts a Slurm of two nodes and returns the environment to use it. It leaves nothing behind but its folder."""
    programs = ["munged", "slurmctld", "slurmd", "sbatch", "unshare"]
    missing = [name for name in programs if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]
    if os.geteuid() or missing:
        pytest.skip(f"needs root and Debian's slurm-wlm and munge (missing: {', '.join(missing) or 'root'})")
    if Path(sys.executable) != ROOT / ".venv" / "bin" / "python":
        pytest.skip("jobs run the checkout's own .venv; this is another Python")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("munge", "state", *(f"spool-{node}" for node in NODES)):
        (folder / name).mkdir(mode=0o700)
    (folder / "munge" / "key").write_bytes(os.urandom(128))
    (folder / "munge" / "key").chmod(0o400)
    (folder / "slurm.conf").write_text(slurm_config(folder, free_ports(3)))
    (folder / "hosts").write_text(Path("/etc/hosts").read_text() + f"\n127.0.0.1 {' '.join(NODES)}\n")
    names = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    options = [f"--{name}={folder}/munge/{file}" for name, file in names.items()]
    daemons = [["munged", "--foreground", "--force", *options], ["slurmctld", "-D", "-i"]]
    # In a mount namespace of its own each node finds the names of both; the machine's /etc/hosts stays as it is.
    start_node = f"mount --bind {folder}/hosts /etc/hosts && exec slurmd -D -N"
    daemons += [["unshare", "--mount", "sh", "-c", f"{start_node} {node}"] for node in NODES]
    environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "PATH": f"{os.environ['PATH']}:/usr/sbin"}
    log, running = (folder / "daemons.log").open("w"), []
    try:
        for command in daemons:
            running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            time.sleep(1)

        def nodes_idle() -> bool:
            sinfo = ["sinfo", "--noheader", "--Node", "--format=%T"]
            return subprocess.run(sinfo, env=environment, capture_output=True, text=True).stdout.split() == ["idle"] * 2

        wait_for(nodes_idle, 60)
        yield environment
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(timeout=60)


@dataclasses.dataclass
class Job:
    """A job of launch/slurm/train.sbatch on both nodes, two CPU devices a process."""

    environment: dict
    log: Path
    job_id: str = ""

    def submit(self, *arguments) -> None:
        command = [
            "sbatch",
            "--parsable",
            "--nodes=2",
            f"--output={self.log}",
            ROOT / "launch/slurm/train.sbatch",
            *arguments,
        ]
        result = subprocess.run(
            [str(item) for item in command], env=self.environment, cwd=ROOT, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        self.job_id = result.stdout.strip()

    def __getitem__(self, field: str) -> str:
        command = ["scontrol", "--oneliner", "show", "job", self.job_id]
        output = subprocess.run(command, env=self.environment, capture_output=True, text=True).stdout
        return dict(item.split("=", 1) for item in output.split() if "=" in item)[field]

    def cancel(self, *arguments: str) -> None:
        subprocess.run(["scancel", *arguments, self.job_id], env=self.environment, check=True)

    def wait_until_ended(self, seconds: float = 200) -> str:
        wait_for(lambda: self["JobState"] not in ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING"), seconds)
        return self["JobState"]


@pytest.fixture
def job(slurm, skald, tmp_path) -> Job:
    flags = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=0"
    variables = {"SKALD_CACHE": skald.environment["SKALD_CACHE"], "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    return Job({**slurm, **variables}, tmp_path / "log")


def metrics(run: Path) -> list[dict]:
    file = run / "metrics.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


@pytest.mark.alone
def test_a_slurm_job_requeues_itself_in_the_middle_and_ends_as_one_process(skald, job, tmp_path):
    arguments = [skald.config, "--run-dir", tmp_path / "run", "--set", "steps=160", "--set", "mesh.data=4"]
    arguments += ["--set", "evaluation.every=160", "--set", "checkpoints.every=80"]
    job.submit(*arguments)
    wait_for(lambda: len(metrics(tmp_path / "run")) > 20, 200)
    job.cancel("--signal=TERM")  # to the processes: as --signal=TERM@120 does ahead of the time limit
    wait_for(lambda: "is queued again (restart 1)" in job.log.read_text(), 60)
    assert job.wait_until_ended(300) == "COMPLETED" and job["ExitCode"] == "0:0" and job["Restarts"] == "1", (
        job.log.read_text()
    )
    log = job.log.read_text()
    assert "on 4 cpu devices" in log and "stopped by SIGTERM at step" in log and "going on from step" in log

    single_process = skald.with_environment(XLA_FLAGS=job.environment["XLA_FLAGS"].replace("count=2", "count=4"))
    status, _, err = single_process("train", skald.config, "--run-dir", tmp_path / "alone", *arguments[3:])
    assert status == 0, err
    for a, b in zip(metrics(tmp_path / "run"), metrics(tmp_path / "alone"), strict=True):
        assert a["train/loss"] == pytest.approx(b["train/loss"], rel=1e-4), a["step"]


@pytest.mark.alone
def test_a_slurm_job_that_fails_or_is_cancelled_stays_so(skald, job, tmp_path):
    job.submit(skald.config, "--run-dir", tmp_path / "run", "--set", "stepps=3")
    assert job.wait_until_ended() == "FAILED" and job["ExitCode"] == "2:0", job.log.read_text()
    assert "steps" in job.log.read_text() and job["Restarts"] == "0"
    settings = ["steps=100000", "mesh.data=4", "evaluation.every=100000", "checkpoints.every=100000"]
    job.submit(
        skald.config, "--run-dir", tmp_path / "run", *(argument for path in settings for argument in ("--set", path))
    )
    wait_for(lambda: metrics(tmp_path / "run"), 200)
    job.cancel()
    assert job.wait_until_ended() == "CANCELLED"
    time.sleep(3)
    assert job["JobState"] == "CANCELLED" and job["Restarts"] == "0", job.log.read_text()
    log = job.log.read_text()
    assert "stopped by SIGTERM" in log and "queued again" not in log, "it is saved, and stays cancelled"
