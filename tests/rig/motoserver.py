"""moto as a server of its own process: the rig's EC2 (and S3, for small objects only).

with MotoServer(directory / "moto.log") as moto:
    instance_id, volume_id = moto.make_instance()
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config

from tests.rig.service import Service, answers, free_ports

REGION = "eu-west-1"


class MotoServer(Service):
    """`moto_server` on a free loopback port. It takes any credentials."""

    def __init__(self, log: Path) -> None:
        super().__init__("moto", log)
        (self.port,) = free_ports(1)

    @property
    def endpoint(self) -> str:
        """http://127.0.0.1:PORT"""
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        moto = str(Path(sys.executable).with_name("moto_server"))
        return [sys.executable, moto, "-H", "127.0.0.1", "-p", str(self.port)]

    def ready(self) -> bool:
        return answers(self.port)

    def client(self, service: str) -> Any:
        """A botocore client of this server."""
        return botocore.session.Session().create_client(
            service,
            region_name=REGION,
            endpoint_url=self.endpoint,
            aws_access_key_id="moto",
            aws_secret_access_key="moto",
            config=Config(retries={"total_max_attempts": 1}, proxies={}),
        )

    def make_bucket(self, name: str) -> None:
        """Create a bucket."""
        place = {"LocationConstraint": REGION}
        self.client("s3").create_bucket(Bucket=name, CreateBucketConfiguration=place)

    def make_instance(self, *, root_gib: int = 8) -> tuple[str, str]:
        """A running instance with a root volume: (instance id, volume id)."""
        ec2 = self.client("ec2")
        image = ec2.describe_images(Owners=["amazon"])["Images"][0]
        device = image.get("RootDeviceName", "/dev/sda1")
        answer = ec2.run_instances(
            ImageId=image["ImageId"],
            InstanceType="i3.large",
            MinCount=1,
            MaxCount=1,
            BlockDeviceMappings=[{"DeviceName": device, "Ebs": {"VolumeSize": root_gib}}],
        )
        instance_id = answer["Instances"][0]["InstanceId"]
        volumes = ec2.describe_volumes(
            Filters=[{"Name": "attachment.instance-id", "Values": [instance_id]}]
        )["Volumes"]
        return instance_id, volumes[0]["VolumeId"]
