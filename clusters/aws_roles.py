"""Makes the two IAM roles that cluster.yaml names: once per AWS account and bucket."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import click

HEAD, WORKER = "mnist-tune-head", "mnist-tune-worker"


@click.command()
@click.argument("bucket")
def main(bucket: str) -> None:
    """Let the nodes of cluster.yaml use BUCKET, and its head start and stop workers.

    \b
    mnist-tune-worker  reads and writes the objects of BUCKET
    mnist-tune-head    also that; has AWS's policy AmazonEC2FullAccess, as a head has with Ray's
                       own role; gives workers their role (iam:PassRole), and no other

    Run it again for another bucket: the nodes then have access to that one instead. Needs
    credentials that may create roles, and an S3 bucket that is there.
    """  # noqa: D301 - the backspace is click's
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        make_roles(bucket)
    except (BotoCoreError, ClientError) as error:
        raise click.ClickException(f"AWS refuses: {error}") from None
    click.echo(f"{HEAD} and {WORKER} have access to s3://{bucket}")


def make_roles(bucket: str) -> None:
    """Both roles with what they may do; those that are there already are brought up to date."""
    import boto3

    iam = boto3.client("iam")
    worker_arn = _role(iam, WORKER)
    _role(iam, HEAD)
    iam.attach_role_policy(RoleName=HEAD, PolicyArn="arn:aws:iam::aws:policy/AmazonEC2FullAccess")
    _set_policy(iam, WORKER, _bucket_statements(bucket))
    _set_policy(iam, HEAD, [*_bucket_statements(bucket), *_head_statements(worker_arn)])


def _role(iam: Any, name: str) -> str:
    """A role for EC2 instances and the profile of that name which carries it; returns its ARN."""
    trust = _document(
        [
            {
                "Effect": "Allow",
                "Principal": {"Service": "ec2.amazonaws.com"},
                "Action": "sts:AssumeRole",
            }
        ]
    )
    with suppress(iam.exceptions.EntityAlreadyExistsException):
        iam.create_role(RoleName=name, AssumeRolePolicyDocument=trust)
    with suppress(iam.exceptions.EntityAlreadyExistsException):
        iam.create_instance_profile(InstanceProfileName=name)
    profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    if not profile["Roles"]:
        iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name)
    arn: str = iam.get_role(RoleName=name)["Role"]["Arn"]
    return arn


def _set_policy(iam: Any, role: str, statements: list[dict[str, Any]]) -> None:
    iam.put_role_policy(
        RoleName=role, PolicyName="mnist-tune", PolicyDocument=_document(statements)
    )


def _document(statements: list[dict[str, Any]]) -> str:
    return json.dumps({"Version": "2012-10-17", "Statement": statements})


def _bucket_statements(bucket: str) -> list[dict[str, Any]]:
    return [
        {
            "Effect": "Allow",
            "Action": ["s3:ListBucket", "s3:GetBucketLocation"],
            "Resource": f"arn:aws:s3:::{bucket}",
        },
        {
            "Effect": "Allow",
            "Action": [
                "s3:GetObject",
                "s3:PutObject",
                "s3:DeleteObject",
                "s3:AbortMultipartUpload",
            ],
            "Resource": f"arn:aws:s3:::{bucket}/*",
        },
    ]


def _head_statements(worker_arn: str) -> list[dict[str, Any]]:
    return [
        {"Effect": "Allow", "Action": "iam:PassRole", "Resource": worker_arn},
        {
            # ImageId: resolve:ssm:… is looked up with the rights of who launches.
            "Effect": "Allow",
            "Action": "ssm:GetParameters",
            "Resource": "arn:aws:ssm:*::parameter/aws/service/*",
        },
    ]


if __name__ == "__main__":
    main()
