"""The only place that makes botocore clients.

Credentials come from botocore's own chain (environment, profile, the instance's role) and are
refreshed by it; the metadata service is spoken to in version 2 only.
botocore, not boto3: the RAM OS has no boto3, and its import would be downtime.
"""

from typing import Any
from urllib.parse import urlsplit

import botocore.exceptions
import botocore.session
from botocore.config import Config

from flashboot.cloud.metadata import DEFAULT_ENDPOINT
from flashboot.cloud.settings import CloudSettings
from flashboot.errors import CloudError

# More than the 16 fetchers of a flash and the few threads beside them: urllib3 throws away
# connections beyond this number instead of keeping them, each at the price of a TLS handshake.
_CONNECTIONS = 32
_CONNECT_SECONDS = 5
_READ_SECONDS = 20

_FILES = ("credentials", "config")  # as botocore calls the settings of their paths


def s3_client(settings: CloudSettings) -> Any:
    """An S3 client for `S3Store`: thread-safe, never retries, leaves checksums to its user.

    Raises CloudError where there are no credentials.
    """
    config = Config(
        # store.retry tries again, where it is seen and can be cancelled.
        retries={"total_max_attempts": 1},
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        max_pool_connections=_CONNECTIONS,
        tcp_keepalive=True,
        proxies=_proxies(settings, "s3"),
        # Every object is checked by SHA-256 by whoever reads it. botocore's CRC of each body would
        # cost processor time again, and some S3 servers send the whole object's for a range.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # Names of buckets do not resolve below the address of an S3 of one's own.
        s3={"addressing_style": "path" if "s3" in settings.endpoints else "auto"},
    )
    return _client(settings, "s3", config)


def ec2_client(settings: CloudSettings) -> Any:
    """An EC2 client with botocore's standard retries (three attempts).

    Raises CloudError where there are no credentials or no region.
    """
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 3},
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        proxies=_proxies(settings, "ec2"),
    )
    return _client(settings, "ec2", config)


def _client(settings: CloudSettings, service: str, config: Config) -> Any:
    try:
        session = _session(settings)
        # Asked for now: a client made without credentials would never look for them again.
        if not _has_credentials(session):
            raise CloudError(
                "Finding AWS credentials",
                f"there are none in {_places(session)}",
                hint="give the instance a role, or set AWS_PROFILE or AWS_ACCESS_KEY_ID",
            )
        return session.create_client(
            service,
            region_name=settings.region,
            endpoint_url=settings.endpoints.get(service),
            verify=settings.ca_bundle,
            config=config,
        )
    except botocore.exceptions.NoRegionError as error:
        raise CloudError(
            f"Making a client for {service}", "no region is known", hint="set AWS_REGION"
        ) from error
    except (botocore.exceptions.BotoCoreError, ValueError) as error:
        raise CloudError(f"Making a client for {service}", str(error).rstrip(".")) from error


def _session(settings: CloudSettings) -> Any:
    session = botocore.session.Session()
    # docs.aws.amazon.com/sdkref/latest/guide/feature-imds-credentials.html
    session.set_config_variable("ec2_metadata_v1_disabled", True)
    session.set_config_variable("metadata_service_timeout", 2)
    session.set_config_variable("metadata_service_num_attempts", 3)
    if "imds" in settings.endpoints:
        # botocore joins paths to it as they are, so it must end with a slash.
        session.set_config_variable(
            "ec2_metadata_service_endpoint", settings.endpoints["imds"] + "/"
        )
    return session


def _has_credentials(session: Any) -> bool:
    try:
        return session.get_credentials() is not None
    except botocore.exceptions.MetadataRetrievalError:
        # The last place of all gave no token: off EC2 that means only that nobody is there.
        return False


def _places(session: Any) -> str:
    """Where botocore looked for credentials."""
    profile = session.get_config_variable("profile") or "default"
    files = " or ".join(session.get_config_variable(f"{kind}_file") for kind in _FILES)
    imds = session.get_config_variable("ec2_metadata_service_endpoint") or DEFAULT_ENDPOINT
    return (
        f"the environment (AWS_ACCESS_KEY_ID), none in profile {profile} of {files}, "
        f"and none (an instance's role) at the metadata service {imds.rstrip('/')}"
    )


def _proxies(settings: CloudSettings, service: str) -> dict[str, str]:
    """botocore's `proxies`: empty, not None, for no proxy, or it would look for one itself."""
    if settings.proxy is None:
        return {}
    default = f"https://{service}.{settings.region or 'us-east-1'}.amazonaws.com"
    host = urlsplit(settings.endpoints.get(service, default)).hostname or ""
    if _bypassed(host, settings.no_proxy or ""):
        return {}
    return {"http": settings.proxy, "https": settings.proxy}


def _bypassed(host: str, no_proxy: str) -> bool:
    """Whether `no_proxy` names the host, a domain above it, or all ('*')."""
    names = [name.strip().lstrip(".").lower() for name in no_proxy.split(",")]
    return any(name and (name == "*" or f".{host}".endswith(f".{name}")) for name in names)
