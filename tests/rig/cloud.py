"""The cloud around the rig's instances, on loopback: S3, EC2 and the metadata service.

SeaweedFS serves the images, moto EC2; the metadata service hands out credentials of a role that
SeaweedFS really enforces. All of it ends with the `with` block.
"""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flashboot.machine.qemu import HOST_ADDRESS
from tests.rig.imds import Imds, Instance
from tests.rig.motoserver import MotoServer
from tests.rig.seaweed import ACCESS_KEY, NODE_POLICY, SECRET_KEY, Policy, Seaweed

REPOSITORY = Path(__file__).resolve().parents[2]
REGION = "eu-west-1"
BUCKET = "images"
_CREDENTIALS_SECONDS = 6 * 3600
STORE = f"s3://{BUCKET}/rig"
# Credentials of `nobody` are good and open nothing: what a role without its policy is.
ROLES: dict[str, Policy] = {
    "node": NODE_POLICY,
    "nobody": [{"Effect": "Deny", "Action": ["s3:*"], "Resource": ["*"]}],
}
MAC = "52:54:00:f1:a5:01"


@dataclass(frozen=True, slots=True)
class Result:
    """What a command of ours ended with; `value` is its JSON."""

    code: int
    value: dict[str, Any]
    said: str


class Cloud:
    """S3 with a bucket, EC2 with one instance, and that instance's metadata service."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._directory.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            self.seaweed = stack.enter_context(Seaweed(self._directory / "s3", roles=ROLES))
            self.moto = stack.enter_context(MotoServer(self._directory / "moto.log"))
            self.seaweed.make_bucket(BUCKET)
            self.instance_id, self.volume_id = self.moto.make_instance()
            # Taken once, as EC2 keeps them ready: they are there even when S3 is silent.
            self.credentials = self.seaweed.role_credentials(seconds=_CREDENTIALS_SECONDS)
            self.imds = stack.enter_context(
                Imds(
                    Instance(
                        instance_id=self.instance_id,
                        region=REGION,
                        mac=MAC,
                        credentials=lambda: self.credentials,
                    )
                )
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def guest_environment(self) -> str:
        """/etc/flashboot/environment of an instance here: what real ones get from AWS itself."""
        lines = {
            "FLASHBOOT_STORE": STORE,
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL_S3": f"http://{HOST_ADDRESS}:{self.seaweed.port}",
            "AWS_ENDPOINT_URL_EC2": f"http://{HOST_ADDRESS}:{self.moto.port}",
        }
        return "".join(f"{name}={value}\n" for name, value in lines.items())

    def guest_settings(self) -> dict[str, str | dict[str, str]]:
        """The same as cloud/settings.py writes it into a handoff."""
        endpoints = {
            "s3": f"http://{HOST_ADDRESS}:{self.seaweed.port}",
            "ec2": f"http://{HOST_ADDRESS}:{self.moto.port}",
        }
        return {"region": REGION, "endpoints": endpoints}

    def publisher_environment(self) -> dict[str, str]:
        """What a CI job that publishes has: the store's address and keys."""
        return {
            **os.environ,
            "FLASHBOOT_STORE": STORE,
            "FLASHBOOT_ENVIRONMENT": "/nonexistent",
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL_S3": self.seaweed.endpoint,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
        }

    def flashboot(self, *arguments: str | Path, check: bool = True) -> Result:
        """Run `flashboot ... --json` on this computer, as the publisher."""
        return run_flashboot(arguments, self.publisher_environment(), check=check)

    def tags(self) -> dict[str, str]:
        """The instance's tags in EC2."""
        filters = [{"Name": "resource-id", "Values": [self.instance_id]}]
        answer = self.moto.client("ec2").describe_tags(Filters=filters)
        return {tag["Key"]: tag["Value"] for tag in answer["Tags"]}

    def keys(self, prefix: str) -> list[str]:
        """The keys of the store's objects below `prefix`."""
        answer = self.seaweed.client().list_objects_v2(Bucket=BUCKET, Prefix=f"rig/{prefix}")
        return [entry["Key"].removeprefix("rig/") for entry in answer.get("Contents", ())]

    def object(self, key: str) -> bytes:
        """An object of the store, as S3 has it."""
        answer = self.seaweed.client().get_object(Bucket=BUCKET, Key=f"rig/{key}")
        body: bytes = answer["Body"].read()
        return body

    def put_object(self, key: str, data: bytes) -> None:
        """Put other bytes there behind the store's back."""
        self.seaweed.client().put_object(Bucket=BUCKET, Key=f"rig/{key}", Body=data)


def run_flashboot(
    arguments: Sequence[str | Path], environment: Mapping[str, str], *, check: bool = True
) -> Result:
    """Run the installed command; its JSON is its last line of output."""
    command = [str(Path(sys.executable).parent / "flashboot"), *map(str, arguments), "--json"]
    done = subprocess.run(
        command,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        cwd=REPOSITORY,
    )
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    text = done.stdout.strip()
    return Result(done.returncode, json.loads(text) if text else {}, done.stderr)
