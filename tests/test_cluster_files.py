"""The files that launch clusters, against the schemas of those who read them."""

from __future__ import annotations

import copy
import os
import re
import subprocess
from functools import reduce
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from tests.cluster_files import Config, check_launcher, check_manifest, is_manifest, load

AWS = ROOT / "cluster.yaml"
KUBERAY = ROOT / "clusters" / "kuberay.yaml"
DOCKERFILE = ROOT / "clusters" / "Dockerfile"
FILES = [AWS, *sorted((ROOT / "clusters").glob("*.yaml"))]
LAUNCHERS = [path for path in FILES if not is_manifest(path)]

LOCAL: Config = {
    "cluster_name": "mnist-tune",
    "provider": {"type": "local", "head_ip": "192.0.2.1", "worker_ips": ["192.0.2.2"]},
    "auth": {"ssh_user": "ubuntu"},
    "min_workers": 1,
    "max_workers": 1,
    "file_mounts": {"~/.ray/auth_token": "~/.ray/auth_token"},
    "head_start_ray_commands": ["ray start --head"],
}


def with_value(config: Config, path: str, value: Any) -> Config:
    """The file with one value put where ``path`` (keys and indices) says."""
    changed = copy.deepcopy(config)
    *parents, last = (int(key) if key.isdigit() else key for key in path.split("/"))
    reduce(lambda part, key: part[key], parents, changed)[last] = value
    return changed


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_ray_up_takes_it(path: Path) -> None:
    check_launcher(load(path))


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: path.name)
def test_every_node_has_the_token_and_asks_for_it(path: Path) -> None:
    assert "~/.ray/auth_token" in load(path)["file_mounts"].values()
    assert "RAY_AUTH_MODE=token" in path.read_text()


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("max_worker", 3, "max_worker"),
        ("min_workers", 1, "min_workers is of a node type"),
        ("provider/regoin", "us-west-2", "provider: unknown: regoin"),
        ("available_node_types/gpu_worker/min_worker", 0, "min_worker"),
        ("available_node_types/gpu_worker/resources/gpu", 1, "resources: unknown: gpu"),
        ("available_node_types/gpu_worker/node_config/ImageID", "ami-1", "ImageID"),
        ("available_node_types/gpu_worker/node_config/InstanceType", "g4nd.xlarge", "g4nd"),
        (
            "available_node_types/gpu_worker/node_config/InstanceMarketOptions/MarketTyp",
            "spot",
            "MarketTyp",
        ),
        (
            "available_node_types/head/node_config/BlockDeviceMappings/0/Ebs/VolumeTyp",
            "gp3",
            "VolumeTyp",
        ),
        ("available_node_types/head/node_config/TagSpecifications/1/Tags/0/Kye", "a", "Kye"),
        ("head_node_type", "heda", "head_node_type"),
        ("file_mount", {}, "file_mount"),
    ],
)
def test_a_typo_in_the_aws_file_is_refused(where: str, value: Any, message: str) -> None:
    with pytest.raises(Exception, match=message):
        check_launcher(with_value(load(AWS), where, value))


def test_a_cluster_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="cluster_name is missing"):
        check_launcher({key: value for key, value in load(AWS).items() if key != "cluster_name"})


def test_rays_own_key_of_an_instance_is_taken() -> None:
    where = "available_node_types/head/node_config/SubnetIds"
    check_launcher(with_value(load(AWS), where, ["subnet-1"]))


def test_machines_one_owns() -> None:
    check_launcher(LOCAL)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        ("provider/worker_ip", ["192.0.2.3"], "provider: unknown: worker_ip"),
        ("auth/ssh_usr", "root", "ssh_usr"),
        ("max_worker", 3, "max_worker"),
    ],
)
def test_a_typo_in_a_local_file_is_refused(where: str, value: Any, message: str) -> None:
    with pytest.raises(Exception, match=message):
        check_launcher(with_value(LOCAL, where, value))


def test_a_manifest_that_kuberay_takes() -> None:
    check_manifest(load(KUBERAY))


@pytest.mark.parametrize(
    ("where", "value"),
    [
        ("kid", "RayCluster"),
        ("apiVersion", "ray.io/v2"),
        ("metadata/nam", "mnist-tune"),
        ("spec/enableInTreeAutoscalling", True),
        ("spec/authOptions/mod", "token"),
        ("spec/authOptions/mode", "tokn"),
        ("spec/autoscalerOptions/idleTimeoutSecond", 60),
        ("spec/autoscalerOptions/version", "v3"),
        ("spec/autoscalerOptions/resources/limit", {}),
        ("spec/autoscalerOptions/securityContext/runAsNonroot", True),
        ("spec/headGroupSpec/rayStartParam", {}),
        ("spec/headGroupSpec/rayStartParams/num-cpus", 0),
        ("spec/headGroupSpec/serviceType", "Loadbalancer"),
        ("spec/headGroupSpec/template/specs", {}),
        ("spec/workerGroupSpecs/0/minReplica", 0),
        ("spec/workerGroupSpecs/0/maxReplicas", "8"),
        ("spec/workerGroupSpecs/0/template/spec/toleration", []),
        ("spec/workerGroupSpecs/0/template/spec/containers/0/imagePullPolice", "Always"),
        ("spec/workerGroupSpecs/0/template/spec/containers/0/securityContext/runAsNotRoot", True),
        ("spec/workerGroupSpecs/0/template/spec/containers/0/env/0/vale", "s3://a/b"),
    ],
)
def test_a_typo_in_the_manifest_is_refused(where: str, value: Any) -> None:
    with pytest.raises(Exception, match=re.escape(where.rsplit("/", maxsplit=1)[-1])):
        check_manifest(with_value(load(KUBERAY), where, value))


def test_rays_autoscaler_reads_the_manifest_as_it_is_meant() -> None:
    from ray.autoscaler._private.kuberay import autoscaling_config
    from ray.autoscaler._private.util import validate_config

    manifest = with_value(load(KUBERAY), "metadata/namespace", "default")
    config = autoscaling_config._derive_autoscaling_config_from_ray_cr(manifest)
    validate_config(config)

    head, worker = config["available_node_types"].values()
    assert config["idle_timeout_minutes"] == 5
    assert head["resources"]["CPU"] == 0
    assert (worker["min_workers"], worker["max_workers"]) == (0, 8)
    assert {"CPU": 3, "GPU": 1}.items() <= worker["resources"].items()


def test_the_manifest_opens_nothing_to_the_outside_and_runs_as_nobody_special() -> None:
    spec = load(KUBERAY)["spec"]
    head = spec["headGroupSpec"]
    assert (head["serviceType"], head["enableIngress"]) == ("ClusterIP", False)
    assert spec["authOptions"]["mode"] == "token"
    for group in [head, *spec["workerGroupSpecs"]]:
        for container in group["template"]["spec"]["containers"]:
            assert container["securityContext"]["runAsNonRoot"]
            assert container["image"].startswith("registry.example.com/")
    assert "\nUSER 1000\n" in DOCKERFILE.read_text()


def test_everything_is_of_one_version() -> None:
    import ray

    assert load(KUBERAY)["spec"]["rayVersion"] == ray.__version__
    aws, image = AWS.read_text(), DOCKERFILE.read_text()
    assert re.findall(r"uv/([\d.]+)/install.sh", aws) == re.findall(r"uv==([\d.]+)", image)
    assert re.findall(r"UV_PYTHON=(\d+\.\d+)", aws) == re.findall(r"FROM python:([\d.]+)", image)


def test_workers_come_when_needed_and_the_head_runs_no_trials() -> None:
    config = load(AWS)
    types = config["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0}
    assert types["gpu_worker"]["min_workers"] == 0
    assert types["gpu_worker"]["resources"]["GPU"] == 1
    assert types["gpu_worker"]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}


@pytest.mark.parametrize("path", [AWS, KUBERAY], ids=lambda path: path.name)
def test_two_places_are_to_be_edited(path: Path) -> None:
    assert len(re.findall("# EDIT: ", path.read_text())) == 2


def test_nodes_install_what_is_locked_and_workers_cuda() -> None:
    config = load(AWS)
    (head,), (worker,) = config["head_setup_commands"], config["worker_setup_commands"]
    assert "uv sync --quiet --locked --no-dev --extra cluster" in head
    assert "cuda" not in head
    assert worker == f"{head} --extra cuda"


def test_what_is_copied_to_the_nodes_is_here() -> None:
    mounts = load(AWS)["file_mounts"].values()
    assert [mount for mount in mounts if mount[0] != "~" and not (ROOT / mount).exists()] == []


def test_setting_up_a_node_again_and_again(tmp_path: Path) -> None:
    """The setup commands, on a home directory with the beginning of Ubuntu's ~/.bashrc."""
    (tmp_path / ".bashrc").write_text("case $- in\n    *i*) ;;\n      *) return;;\nesac\n")
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("secret")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "uv").touch(mode=0o755)
    env = {"HOME": str(tmp_path), "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}

    def run(command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command], env=env, capture_output=True, text=True, check=True
        )
        return done.stdout

    for _ in range(2):
        for command in load(AWS)["setup_commands"]:
            run(command)

    assert run(". ~/.bashrc; echo $MNIST_TUNE_STORAGE $RAY_AUTH_MODE").split() == [
        "s3://your-bucket/mnist-tune",
        "token",
    ]
    assert run(". ~/.bashrc; echo $PATH").startswith(f"{tmp_path}/venv/bin:")
    assert (tmp_path / ".bashrc").read_text().count("mnist_tune_env") == 1
    assert (tmp_path / ".mnist_tune_env").read_text().count("export PATH=") == 1
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
