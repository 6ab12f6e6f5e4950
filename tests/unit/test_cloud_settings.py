"""Settings from the environment and through a document; what clients are made of."""

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import botocore.exceptions
import pytest

from flashboot.cloud.clients import _proxies, ec2_client, s3_client
from flashboot.cloud.settings import CloudSettings
from flashboot.cloud.tags import read_tags, write_tags
from flashboot.errors import CloudError, MalformedDocument, UsageError, explain


def test_reads_the_names_that_aws_tools_read() -> None:
    settings = CloudSettings.from_environment(
        {
            "AWS_REGION": "eu-west-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": "http://127.0.0.1:1/",
            "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:2",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:3/",
            "AWS_CA_BUNDLE": "/etc/ca.pem",
            "HTTPS_PROXY": "http://proxy:3128",
            "NO_PROXY": "127.0.0.1",
            "AWS_SECRET_ACCESS_KEY": "secret",
        }
    )
    assert settings == CloudSettings(
        region="eu-west-1",
        endpoints={
            "s3": "http://127.0.0.1:2",
            "ec2": "http://127.0.0.1:1",
            "imds": "http://127.0.0.1:3",
        },
        ca_bundle="/etc/ca.pem",
        proxy="http://proxy:3128",
        no_proxy="127.0.0.1",
    )
    assert "secret" not in json.dumps(settings.as_dict())
    assert CloudSettings.from_environment({"AWS_REGION": ""}) == CloudSettings()


@pytest.mark.parametrize(
    "settings",
    [
        CloudSettings(),
        CloudSettings(region="eu-west-1"),
        CloudSettings(
            region="x",
            endpoints={"s3": "https://s3"},
            ca_bundle="c",
            proxy="http://p",
            no_proxy="n",
        ),
    ],
)
def test_goes_through_a_document(settings: CloudSettings) -> None:
    assert CloudSettings.from_dict(json.loads(json.dumps(settings.as_dict()))) == settings


@pytest.mark.parametrize(
    "document",
    [
        {"regions": "x"},
        {"region": 1},
        {"region": None},
        {"endpoints": []},
        {"endpoints": {"s3": 1}},
        {"endpoints": {"sqs": "http://x"}},
        {"endpoints": {"s3": "ftp://x"}},
        {"proxy": "proxy:3128"},
    ],
)
def test_refuses_other_documents(document: dict[str, Any]) -> None:
    with pytest.raises(MalformedDocument):
        CloudSettings.from_dict(document)


@pytest.mark.parametrize("url", ["", "x", "http://", "http://a:b", "http://[x", "http://a:99999"])
def test_refuses_an_address_that_is_none(url: str) -> None:
    with pytest.raises(UsageError, match="endpoint of s3"):
        CloudSettings(endpoints={"s3": url})


def test_a_proxys_password_stays_here() -> None:
    settings = CloudSettings(proxy="http://me:hush@proxy:3128")
    with pytest.raises(UsageError) as caught:
        settings.as_dict()
    assert "hush" not in str(caught.value)
    with pytest.raises(UsageError) as caught:
        CloudSettings(proxy="ftp://me:hush@proxy")
    assert "hush" not in str(caught.value)


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    # Only the settings count, not what botocore finds in the environment.
    monkeypatch.setenv("HTTPS_PROXY", "http://elsewhere:1")


def test_the_s3_client_is_what_the_store_needs() -> None:
    config = s3_client(CloudSettings(region="eu-west-1"))._client_config
    assert config.retries["total_max_attempts"] == 1
    assert (config.connect_timeout, config.read_timeout) == (5, 20)
    assert config.max_pool_connections >= 16
    assert config.response_checksum_validation == "when_required"
    assert config.request_checksum_calculation == "when_required"
    assert config.proxies == {}


def test_an_own_endpoint_is_addressed_by_path() -> None:
    own = CloudSettings(region="eu-west-1", endpoints={"s3": "http://127.0.0.1:1"})
    assert s3_client(own).meta.config.s3["addressing_style"] == "path"
    assert s3_client(own).meta.endpoint_url == "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("no_proxy", "proxied"),
    [
        (None, True),
        ("", True),
        ("example.com", True),
        ("ws.com", True),
        ("*", False),
        (".amazonaws.com", False),
        ("localhost, AmazonAWS.com", False),
        ("s3.eu-west-1.amazonaws.com", False),
    ],
)
def test_no_proxy_is_held_to(no_proxy: str | None, proxied: bool) -> None:
    settings = CloudSettings(region="eu-west-1", proxy="http://proxy:3128", no_proxy=no_proxy)
    assert bool(_proxies(settings, "s3")) is proxied


def test_a_proxy_serves_both_schemes() -> None:
    client = s3_client(CloudSettings(region="eu-west-1", proxy="http://proxy:3128"))
    proxies = {"http": "http://proxy:3128", "https": "http://proxy:3128"}
    assert client._client_config.proxies == proxies


def test_ec2_needs_a_region() -> None:
    with pytest.raises(CloudError, match="no region"):
        ec2_client(CloudSettings())
    assert ec2_client(CloudSettings(region="eu-west-1")).meta.region_name == "eu-west-1"


def test_a_profile_that_is_missing_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(CloudError, match="nobody"):
        s3_client(CloudSettings(region="eu-west-1"))


def test_no_credentials_off_ec2_is_said_with_where_they_were_looked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # nobody listens there: refused at once
        endpoint = f"http://127.0.0.1:{free.getsockname()[1]}"
        settings = CloudSettings(region="eu-west-1", endpoints={"imds": endpoint})
        with pytest.raises(CloudError) as caught:
            s3_client(settings)
    text = explain(caught.value)
    assert text.startswith("Finding AWS credentials failed: there are none in the environment")
    for place in ("AWS_ACCESS_KEY_ID", f"{tmp_path}/credentials", "/nonexistent", endpoint):
        assert place in text
    assert "IMDSv1" not in text


class FakeEc2:
    """Refuses, or records."""

    def __init__(self, code: str = "") -> None:
        self.code = code
        self.written: list[dict[str, str]] = []

    def create_tags(self, **arguments: Any) -> None:
        if self.code:
            raise botocore.exceptions.ClientError(
                {"Error": {"Code": self.code, "Message": "You may not."}}, "CreateTags"
            )
        self.written += arguments["Tags"]

    def describe_tags(self, **arguments: Any) -> None:
        raise botocore.exceptions.EndpointConnectionError(endpoint_url="http://x")


def test_tags_are_one_short_line() -> None:
    ec2 = FakeEc2()
    write_tags(ec2, "i-1", {"status": "a\n\tb", "long": "é" * 257, "fits": "x" * 256})
    values = {tag["Key"]: tag["Value"] for tag in ec2.written}
    assert values["flashboot:status"] == "a  b"
    assert values["flashboot:long"] == "é" * 255 + "…"
    assert values["flashboot:fits"] == "x" * 256


@pytest.mark.parametrize("name", ["", "a b", "a/b", "flashboot:status", "x" * 101])
def test_names_of_tags_are_checked(name: str) -> None:
    with pytest.raises(ValueError, match="flashboot:"):
        write_tags(FakeEc2(), "i-1", {name: "x"})


@pytest.mark.parametrize(
    ("code", "advised"), [("UnauthorizedOperation", True), ("InvalidID", False)]
)
def test_what_ec2_refuses_is_said(code: str, advised: bool) -> None:
    with pytest.raises(CloudError, match=f"tags of i-1 failed: {code}: You may not.") as caught:
        write_tags(FakeEc2(code), "i-1", {"status": "x"})
    assert ("ec2:CreateTags" in caught.value.advice) is advised
    with pytest.raises(CloudError, match="Reading tags of i-1"):
        read_tags(FakeEc2(), "i-1")


def test_what_the_ram_os_starts_with_imports_no_botocore() -> None:
    code = (
        "import sys, flashboot.store.open, flashboot.store.retry, flashboot.cloud.settings,"
        " flashboot.cloud.metadata; sys.exit('botocore' in sys.modules or 'urllib3' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
