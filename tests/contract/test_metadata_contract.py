"""Our metadata client and botocore's, both against the strict fake; and the fake's strictness."""

import http.client
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

import pytest

from flashboot.cloud.clients import s3_client
from flashboot.cloud.metadata import Metadata
from flashboot.cloud.settings import CloudSettings
from flashboot.errors import AccessDenied, CloudError, NoMetadata
from flashboot.store.s3 import S3Store
from tests.rig.imds import Imds, Instance, fixed_credentials
from tests.rig.seaweed import Seaweed
from tests.rig.service import free_ports

TOKEN = "X-aws-ec2-metadata-token"
TTL = "X-aws-ec2-metadata-token-ttl-seconds"


@pytest.fixture
def imds() -> Iterator[Imds]:
    with Imds() as service:
        yield service


@pytest.fixture
def client(imds: Imds) -> Metadata:
    return Metadata(imds.endpoint, sleep=lambda seconds: None)


def _ask(
    imds: Imds, method: str, path: str, headers: dict[str, str] | None = None
) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", imds.port, timeout=5)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        connection.close()


# The fake itself


@pytest.mark.parametrize("ttl", [None, "", "0", "-1", "21601", "ten", "1.5", "²"])
def test_a_token_needs_its_time_to_live(imds: Imds, ttl: str | None) -> None:
    headers = {} if ttl is None else {TTL: ttl.encode().decode("latin-1")}
    assert _ask(imds, "PUT", "/latest/api/token", headers)[0] == 400


@pytest.mark.parametrize("headers", [{}, {TOKEN: ""}, {TOKEN: "made-up=="}])
def test_nothing_is_told_without_a_token(imds: Imds, headers: dict[str, str]) -> None:
    status, text, _ = _ask(imds, "GET", "/latest/meta-data/instance-id", headers)
    assert (status, text) == (401, "")


def test_tokens_end(imds: Imds) -> None:
    assert not imds.knows(imds.new_token(0))
    token = imds.new_token(60)
    assert _ask(imds, "GET", "/latest/meta-data/mac", {TOKEN: token})[0] == 200
    imds.forget_tokens()
    assert _ask(imds, "GET", "/latest/meta-data/mac", {TOKEN: token})[0] == 401


def test_forwarded_requests_are_refused(imds: Imds) -> None:
    forwarded = {"X-Forwarded-For": "192.0.2.1"}
    assert _ask(imds, "PUT", "/latest/api/token", {TTL: "60"} | forwarded)[0] == 403
    headers = {TOKEN: imds.new_token(60)} | forwarded
    assert _ask(imds, "GET", "/latest/meta-data/instance-id", headers)[0] == 403


def test_paths_and_folders(imds: Imds) -> None:
    headers = {TOKEN: imds.new_token(60)}

    def text(path: str) -> str | None:
        status, found, _ = _ask(imds, "GET", f"/latest/{path}", headers)
        return found if status == 200 else None

    assert text("meta-data/placement/availability-zone/") == "eu-west-1a"
    assert text("meta-data/placement/") == "availability-zone\nregion"
    assert text("meta-data/network/interfaces/macs/") == f"{imds.instance.mac}/"
    assert text("meta-data/iam/security-credentials/") == "node"
    assert text("meta-data/nothing") is None
    assert text("meta-data/tags/instance") is None
    assert text("user-data") is None
    assert _ask(imds, "GET", "/", headers)[0] == 404
    assert _ask(imds, "PUT", "/latest/meta-data/mac", {TTL: "60"})[0] == 404


def test_it_tells_the_time(imds: Imds) -> None:
    _, _, headers = _ask(imds, "GET", "/latest/meta-data/mac")
    now = datetime.now(UTC)
    assert abs(parsedate_to_datetime(headers["Date"]) - now) < timedelta(seconds=10)


# Our client


def test_reads_what_the_instance_is(imds: Imds, client: Metadata) -> None:
    instance = imds.instance
    instance.block_devices |= {"ephemeral0": "/dev/sdb"}
    assert client.instance_id() == instance.instance_id
    assert client.region() == "eu-west-1"
    assert client.availability_zone() == "eu-west-1a"
    assert client.instance_type() == "i3.large"
    assert client.mac() == instance.mac
    assert client.block_devices() == instance.block_devices
    assert client.identity_document()["instanceId"] == instance.instance_id
    # One token served them all.
    assert imds.requests["PUT /latest/api/token"] == 1
    assert imds.answers[401] == 0


def test_reads_tags_where_they_are_shown(imds: Imds, client: Metadata) -> None:
    assert client.tags() is None
    imds.instance.tags = {"Name": "db 1", "flashboot:status": "staged, at 12:00"}
    assert client.tags() == imds.instance.tags


def test_says_what_is_not_there(client: Metadata) -> None:
    assert client.find("meta-data/nothing") is None
    with pytest.raises(NoMetadata, match="meta-data/nothing"):
        client.get("meta-data/nothing")


def test_takes_a_new_token_when_the_old_one_is_void(imds: Imds, client: Metadata) -> None:
    client.mac()
    imds.forget_tokens()
    assert client.mac() == imds.instance.mac
    assert imds.requests["PUT /latest/api/token"] == 2


def test_takes_a_new_token_before_the_old_one_ends(imds: Imds) -> None:
    now = 0.0
    client = Metadata(imds.endpoint, clock=lambda: now)
    client.mac()
    now = 21000.0
    client.mac()
    assert imds.requests["PUT /latest/api/token"] == 1
    now = 21541.0
    client.mac()
    assert imds.requests["PUT /latest/api/token"] == 2
    assert imds.answers[401] == 0


def test_outlives_a_service_that_stumbles(imds: Imds, client: Metadata) -> None:
    imds.misbehaviour.fail_next = 2
    assert client.mac() == imds.instance.mac
    imds.misbehaviour.drop_next = 2
    imds.misbehaviour.fail_next = 1
    assert client.region() == "eu-west-1"


def test_gives_up_after_its_attempts(imds: Imds) -> None:
    pauses: list[float] = []
    client = Metadata(imds.endpoint, attempts=3, sleep=pauses.append)
    imds.misbehaviour.fail_next = 100
    with pytest.raises(NoMetadata, match=r"503 \(3 attempts\)"):
        client.mac()
    assert pauses == pytest.approx([0.1, 0.2])
    assert imds.answers[503] == 3


def test_gives_up_on_a_slow_service(imds: Imds) -> None:
    client = Metadata(imds.endpoint, timeout_seconds=0.05, attempts=2, sleep=lambda s: None)
    imds.misbehaviour.delay_seconds = 0.5
    with pytest.raises(NoMetadata, match="2 attempts"):
        client.mac()


def test_gives_up_where_nobody_listens() -> None:
    (port,) = free_ports(1)
    client = Metadata(f"http://127.0.0.1:{port}", attempts=2, sleep=lambda seconds: None)
    with pytest.raises(NoMetadata, match="2 attempts"):
        client.instance_id()


def test_a_service_that_is_switched_off_is_not_asked_again(imds: Imds, client: Metadata) -> None:
    imds.misbehaviour.disabled = True
    with pytest.raises(NoMetadata, match="switched off"):
        client.mac()
    assert imds.answers.total() == 1


def test_a_service_that_refuses_every_token_is_asked_twice(imds: Imds, client: Metadata) -> None:
    imds.misbehaviour.unauthorized = True
    with pytest.raises(NoMetadata, match="401"):
        client.mac()
    assert imds.answers[401] == 2


def test_never_falls_back_to_version_1(imds: Imds, client: Metadata) -> None:
    imds.misbehaviour.version_1_only = True
    with pytest.raises(NoMetadata, match="a token"):
        client.instance_id()
    assert [name for name in imds.requests if name.startswith("GET")] == []


@pytest.mark.parametrize("endpoint", ["https://127.0.0.1", "169.254.169.254", "http://", ""])
def test_refuses_an_endpoint_that_is_none(endpoint: str) -> None:
    with pytest.raises(NoMetadata):
        Metadata(endpoint)


def test_serves_many_threads(imds: Imds, client: Metadata) -> None:
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: client.mac(), range(40))) == {imds.instance.mac}


# botocore's client of it, as our clients use it


@pytest.fixture
def settings(imds: Imds, monkeypatch: pytest.MonkeyPatch) -> CloudSettings:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    return CloudSettings(region="eu-west-1", endpoints={"imds": imds.endpoint})


def test_clients_get_the_roles_credentials(imds: Imds, settings: CloudSettings) -> None:
    client = s3_client(settings)
    found = client._get_credentials().get_frozen_credentials()
    assert found.access_key == fixed_credentials()["AccessKeyId"]
    assert found.token == fixed_credentials()["Token"]
    assert imds.answers[401] == 0


def test_clients_refresh_the_roles_credentials(imds: Imds, settings: CloudSettings) -> None:
    names = iter(range(1000))
    imds.instance.credentials = lambda: fixed_credentials() | {"AccessKeyId": f"ASIA{next(names)}"}
    credentials = s3_client(settings)._get_credentials()
    first = credentials.get_frozen_credentials().access_key
    assert credentials.get_frozen_credentials().access_key == first
    # Botocore's clock: five minutes before the six hours of these credentials are over.
    credentials._time_fetcher = lambda: datetime.now(UTC) + timedelta(hours=5, minutes=55)
    assert credentials.get_frozen_credentials().access_key != first


def test_clients_say_that_there_is_no_role(imds: Imds, settings: CloudSettings) -> None:
    imds.instance.role = None
    with pytest.raises(CloudError, match="credentials"):
        s3_client(settings)


def test_clients_never_fall_back_to_version_1(imds: Imds, settings: CloudSettings) -> None:
    imds.misbehaviour.version_1_only = True
    with pytest.raises(CloudError):
        s3_client(settings)
    assert [name for name in imds.requests if name.startswith("GET")] == []


@pytest.mark.server
def test_a_role_reaches_s3_with_its_token_and_no_further(seaweed: Seaweed) -> None:
    S3Store(seaweed.client(), "contract", "role").put("images/i", b"bytes")
    instance = Instance(credentials=seaweed.role_credentials)
    with Imds(instance) as imds, pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.delenv(name, raising=False)
        endpoints = {"imds": imds.endpoint, "s3": seaweed.endpoint}
        client = s3_client(CloudSettings(region="eu-west-1", endpoints=endpoints))
        store = S3Store(client, "contract", "role")
        assert store.get("images/i", limit=5) == b"bytes"
        assert store.size("images/none") is None
        assert list(store.keys("images/")) == ["images/i"]
        assert store.put("records/i-1/1", b"{}")
        with pytest.raises(AccessDenied, match="images/j"):
            store.put("images/j", b"bytes")
