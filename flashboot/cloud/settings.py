"""How to reach the cloud: a value without secrets, so that it can travel in the handoff."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from flashboot.errors import MalformedDocument, UsageError

Service = Literal["s3", "ec2", "imds"]
SERVICES: tuple[Service, ...] = ("s3", "ec2", "imds")

_FIELDS = ("region", "endpoints", "ca_bundle", "proxy", "no_proxy")


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudSettings:
    """Region, endpoints, CA bundle and proxy. What is None or absent is AWS's default.

    `endpoints` maps 's3', 'ec2' and 'imds' to http(s) URLs; `ca_bundle` is the path of a PEM file
    on this machine; `proxy` is a URL and serves s3 and ec2, never the metadata service;
    `no_proxy` is a list of host suffixes between commas.
    Raises UsageError for an endpoint or a proxy that is no URL.
    """

    region: str | None = None
    endpoints: Mapping[str, str] = field(default_factory=dict)
    ca_bundle: str | None = None
    proxy: str | None = None
    no_proxy: str | None = None

    def __post_init__(self) -> None:
        for service, url in self.endpoints.items():
            if service not in SERVICES:
                raise UsageError(f"{service!r} has no endpoint; only {', '.join(SERVICES)} have")
            _require_url(f"the endpoint of {service}", url)
        if self.proxy is not None:
            _require_url("the proxy", self.proxy)
        # A copy, so that nobody else's changes reach it.
        own = {name: url.rstrip("/") for name, url in self.endpoints.items()}
        object.__setattr__(self, "endpoints", own)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """What the environment says, by the names that AWS's own tools read.

        docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html,
        docs.aws.amazon.com/sdkref/latest/guide/feature-imds-credentials.html and
        docs.aws.amazon.com/cli/latest/userguide/cli-configure-envvars.html.
        Raises UsageError.
        """
        values = os.environ if environment is None else environment

        def first(*names: str) -> str | None:
            return next((values[name] for name in names if values.get(name)), None)

        endpoints = {
            "s3": first("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
            "ec2": first("AWS_ENDPOINT_URL_EC2", "AWS_ENDPOINT_URL"),
            "imds": first("AWS_EC2_METADATA_SERVICE_ENDPOINT"),
        }
        return cls(
            region=first("AWS_REGION", "AWS_DEFAULT_REGION"),
            endpoints={name: url for name, url in endpoints.items() if url is not None},
            ca_bundle=first("AWS_CA_BUNDLE"),
            proxy=first("HTTPS_PROXY", "https_proxy"),
            no_proxy=first("NO_PROXY", "no_proxy"),
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, None and empty ones left out; `from_dict` reads them.

        Raises UsageError for a proxy with a password: the dictionary ends up on a disk.
        """
        if self.proxy is not None and urlsplit(self.proxy).password is not None:
            raise UsageError(
                "the proxy's address holds a password, which must not leave this process",
                hint="use a proxy that knows the node by its address, or NO_PROXY for S3",
            )
        found = {name: getattr(self, name) for name in _FIELDS} | {"endpoints": {**self.endpoints}}
        return {name: value for name, value in found.items() if value}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The settings that `as_dict` wrote. Raises MalformedDocument."""
        unknown = sorted(set(values) - set(_FIELDS))
        if unknown:
            raise MalformedDocument("cloud settings", f"they have unknown entries {unknown}")
        endpoints = values.get("endpoints", {})
        texts = [value for name, value in values.items() if name != "endpoints"]
        if not isinstance(endpoints, Mapping) or not all(
            isinstance(text, str) for text in [*texts, *endpoints, *endpoints.values()]
        ):
            raise MalformedDocument("cloud settings", "they hold other things than texts")
        try:
            return cls(**values)
        except UsageError as error:
            raise MalformedDocument("cloud settings", str(error)) from error


def _require_url(what: str, url: str) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        # Not the address itself: a proxy's may hold a password.
        raise UsageError(f"{what} is not an http:// or https:// address")
