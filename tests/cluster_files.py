"""Whether a cluster file says what it means, to Ray, AWS, KubeRay and Kubernetes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

Config = dict[str, Any]

_HERE = Path(__file__).parent
_RESOURCES = {"CPU", "GPU", "memory", "object_store_memory"}

# What Ray reads of `provider`; its schema takes anything there.
_EVERY_PROVIDER = {
    "type",
    "disable_launch_config_check",
    "disable_node_updaters",
    "foreground_node_launch",
    "use_external_head_ip",
    "use_internal_ips",
    "worker_liveness_check",
}
_PROVIDER_KEYS = {
    "aws": _EVERY_PROVIDER
    | {
        "availability_zone",
        "aws_credentials",
        "cache_stopped_nodes",
        "cloudwatch",
        "key_pair",
        "region",
        "security_group",
    },
    "local": _EVERY_PROVIDER | {"external_head_ip", "head_ip", "worker_ips"},
}


def load(path: Path) -> Config:
    content: Config = YAML(typ="safe").load(path.read_text())
    return content


def is_manifest(path: Path) -> bool:
    return "apiVersion" in load(path)


def check_launcher(config: Config) -> None:
    """What ``ray up`` would refuse, and the typos that it would act on.

    Raises:
        ValueError: a key or a value that isn't known, or one that is missing.
        jsonschema.ValidationError: Ray's schema says so.
    """
    from ray.autoscaler._private.util import prepare_config, validate_config

    if "cluster_name" not in config:
        raise ValueError("cluster_name is missing: Ray calls the cluster `default`")
    provider = config["provider"]
    _refuse(set(provider) - _PROVIDER_KEYS[provider["type"]], "provider")
    if provider["type"] != "local" and "min_workers" in config:
        raise ValueError("min_workers is of a node type: Ray ignores a global one")
    for name, node_type in config.get("available_node_types", {}).items():
        _refuse(set(node_type.get("resources", {})) - _RESOURCES, f"{name}: resources")
        if provider["type"] == "aws":
            _check_instance(name, node_type["node_config"])
    validate_config(prepare_config(config))


def check_manifest(manifest: Config) -> None:
    """A RayCluster against KubeRay's fields, its pods against Kubernetes.

    Raises:
        jsonschema.ValidationError: a key that isn't known, or a value that isn't allowed.
    """
    import jsonschema
    import kubernetes_validate

    jsonschema.validate(manifest, json.loads((_HERE / "raycluster.schema.json").read_text()))
    for template in _pod_templates(manifest["spec"]):
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "PodTemplate", "template": template},
            kubernetes_validate.latest_version(),
            strict=True,
        )


def _refuse(unknown: set[str], where: str) -> None:
    if unknown:
        raise ValueError(f"{where}: unknown: {', '.join(sorted(unknown))}")


def _check_instance(name: str, node_config: Config) -> None:
    """A node's configuration against what EC2's RunInstances takes; Ray hands it on as it is."""
    from botocore.validate import ParamValidator

    shape = _run_instances()
    # SubnetIds is Ray's own; it picks one. The counts are Ray's to give.
    asked = {key: value for key, value in node_config.items() if key != "SubnetIds"}
    report = ParamValidator().validate({**asked, "MinCount": 1, "MaxCount": 1}, shape)
    if report.has_errors():
        raise ValueError(f"{name}: node_config: {report.generate_report()}")
    _refuse(set(_not_choices(asked, shape)), f"{name}: node_config")


@cache
def _run_instances() -> Any:
    import botocore.session

    model = botocore.session.get_session().get_service_model("ec2")
    return model.operation_model("RunInstances").input_shape


def _not_choices(value: Any, shape: Any) -> Iterator[str]:
    """The values that are none of those which EC2 lists; botocore doesn't look."""
    if shape.type_name == "structure":
        for key, part in value.items():
            yield from _not_choices(part, shape.members[key])
    elif shape.type_name == "list":
        for part in value:
            yield from _not_choices(part, shape.member)
    elif getattr(shape, "enum", None) and value not in shape.enum:
        yield f"{value} ({shape.name})"


def _pod_templates(spec: Config) -> Iterator[Config]:
    yield spec["headGroupSpec"]["template"]
    for group in spec.get("workerGroupSpecs", []):
        yield group["template"]
    # The autoscaler's options are those of its container in the head's pod.
    of_container = {"resources", "securityContext", "env", "envFrom", "volumeMounts"}
    options = spec.get("autoscalerOptions", {})
    container = {key: value for key, value in options.items() if key in of_container}
    yield {"spec": {"containers": [{"name": "autoscaler", **container}]}}
