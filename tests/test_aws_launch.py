"""What ``ray up cluster.yaml`` asks of AWS, on moto's AWS: roles, network, instances."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT

from clusters import aws_roles
from tests.cluster_files import Config, load

AWS = ROOT / "cluster.yaml"

pytestmark = [
    pytest.mark.slow,
    # moto knows none of the images that resolve:ssm: would lead to.
    pytest.mark.filterwarnings("ignore:Could not find AMI:PendingDeprecationWarning"),
]


@pytest.fixture
def aws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty account in every region, and a home for the SSH key that ``ray up`` makes."""
    from moto import mock_aws
    from ray.autoscaler._private.aws.utils import client_cache, resource_cache

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with mock_aws(config={"iam": {"load_aws_managed_policies": True}}):
        resource_cache.cache_clear()
        client_cache.cache_clear()
        yield
    resource_cache.cache_clear()
    client_cache.cache_clear()


@pytest.fixture
def roles(aws: None) -> None:
    for bucket in ["an-older-bucket", "runs"]:
        aws_roles.make_roles(bucket)


def bootstrap(config: Config) -> Config:
    from ray.autoscaler._private.commands import _bootstrap_config, try_logging_config

    bootstrapped: Config = _bootstrap_config(config, no_config_cache=True)
    try_logging_config(bootstrapped)
    return bootstrapped


def statements(role: str) -> list[dict[str, Any]]:
    import boto3

    policy = boto3.client("iam").get_role_policy(RoleName=role, PolicyName="mnist-tune")
    document = policy["PolicyDocument"]
    parsed = json.loads(document) if isinstance(document, str) else document
    asked: list[dict[str, Any]] = parsed["Statement"]
    return asked


@pytest.mark.usefixtures("roles")
def test_workers_may_use_the_bucket_and_nothing_else() -> None:
    import boto3

    asked = statements("mnist-tune-worker")
    assert {statement["Resource"] for statement in asked} == {
        "arn:aws:s3:::runs",
        "arn:aws:s3:::runs/*",
    }
    attached = boto3.client("iam").list_attached_role_policies(RoleName="mnist-tune-worker")
    assert attached["AttachedPolicies"] == []


@pytest.mark.usefixtures("roles")
def test_the_head_may_give_workers_their_role_and_no_other() -> None:
    import boto3

    iam = boto3.client("iam")
    worker = iam.get_role(RoleName="mnist-tune-worker")["Role"]["Arn"]
    passed = [s["Resource"] for s in statements("mnist-tune-head") if s["Action"] == "iam:PassRole"]
    assert passed == [worker]
    attached = iam.list_attached_role_policies(RoleName="mnist-tune-head")["AttachedPolicies"]
    assert [policy["PolicyName"] for policy in attached] == ["AmazonEC2FullAccess"]


@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize("region", ["us-west-2", "eu-north-1"])
def test_the_file_launches_a_head_and_spot_workers(region: str) -> None:
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    config = load(AWS)
    config["provider"]["region"] = region
    config = bootstrap(config)
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
    launched = {}
    for name, node_type in config["available_node_types"].items():
        (launched[name],) = provider.create_node(
            node_type["node_config"], {"ray-node-type": "head", "ray-launch-config": "1"}, 1
        ).values()

    for name, role in [("head", "mnist-tune-head"), ("gpu_worker", "mnist-tune-worker")]:
        assert launched[name].iam_instance_profile["Arn"].endswith(f"instance-profile/{role}")
        tags = {tag["Key"]: tag["Value"] for tag in launched[name].tags}
        assert tags["project"] == tags["ray-cluster-name"] == "mnist-tune"
        (volume,) = launched[name].volumes.all()
        assert {"Key": "project", "Value": "mnist-tune"} in volume.tags
    assert launched["gpu_worker"].instance_lifecycle == "spot"
    assert launched["head"].instance_lifecycle is None
    assert launched["head"].public_ip_address
    assert config["available_node_types"]["head"]["resources"]["CPU"] == 0
    assert config["available_node_types"]["gpu_worker"]["resources"]["GPU"] == 1


@pytest.mark.usefixtures("roles")
def test_nothing_but_ssh_is_open_to_the_world() -> None:
    import boto3

    config = bootstrap(load(AWS))
    groups = {
        group
        for node_type in config["available_node_types"].values()
        for group in node_type["node_config"]["SecurityGroupIds"]
    }
    ec2 = boto3.resource("ec2", config["provider"]["region"])
    rules = [rule for group in groups for rule in ec2.SecurityGroup(group).ip_permissions]
    to_the_world = [rule for rule in rules if rule["IpRanges"] or rule["Ipv6Ranges"]]
    assert [(rule["FromPort"], rule["ToPort"]) for rule in to_the_world] == [(22, 22)]
    others = [pair["GroupId"] for rule in rules for pair in rule["UserIdGroupPairs"]]
    assert set(others) == groups


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "ray.scripts.scripts", "up", "--yes", "--no-config-cache", "cluster.yaml"],
        ["clusters/aws_roles.py", "runs"],
    ],
    ids=["ray up", "aws_roles.py"],
)
def test_without_credentials_it_says_so(command: list[str], tmp_path: Path) -> None:
    env = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**env, "HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.strip().splitlines()[-1].endswith("Unable to locate credentials")
