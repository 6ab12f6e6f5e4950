"""An instance's tags under `flashboot:`: one line of state that everybody may see, no secrets.

docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html#tag-restrictions: 128 characters for a
name, 256 for a value, 50 tags.
"""

import re
from collections.abc import Mapping
from typing import Any

import botocore.exceptions

from flashboot.errors import CloudError

PREFIX = "flashboot:"
VALUE_CHARACTERS = 256

# Tags shown by the metadata service must have names without spaces and slashes (same page).
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")

_HINT = "allow ec2:CreateTags and ec2:DescribeTags for this instance (README, IAM policy)"


def write_tags(ec2: Any, instance_id: str, tags: Mapping[str, str]) -> None:
    """Write each value under 'flashboot:' + its name; other tags stay as they are.

    Values are cut to 256 characters and put on one line. Raises CloudError (ec2:CreateTags is
    needed), ValueError for a name that is none.
    """
    for name in tags:
        if _NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} cannot follow {PREFIX!r} in the name of a tag")
    entries = [{"Key": PREFIX + name, "Value": _value(text)} for name, text in tags.items()]
    if not entries:
        return
    try:
        ec2.create_tags(Resources=[instance_id], Tags=entries)
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
        raise _translate(f"Writing tags of {instance_id}", error) from error


def read_tags(ec2: Any, instance_id: str) -> dict[str, str]:
    """Our tags of the instance, without 'flashboot:'.

    Raises CloudError (ec2:DescribeTags is needed).
    """
    filters = [
        {"Name": "resource-id", "Values": [instance_id]},
        {"Name": "key", "Values": [PREFIX + "*"]},
    ]
    try:
        # One instance has at most 50 tags, one page of this call holds up to 1000.
        answer = ec2.describe_tags(Filters=filters)
    except (botocore.exceptions.ClientError, botocore.exceptions.BotoCoreError) as error:
        raise _translate(f"Reading tags of {instance_id}", error) from error
    return {tag["Key"].removeprefix(PREFIX): tag["Value"] for tag in answer["Tags"]}


def _value(text: str) -> str:
    line = "".join(letter if letter.isprintable() else " " for letter in text)
    return line if len(line) <= VALUE_CHARACTERS else line[: VALUE_CHARACTERS - 1] + "…"


def _translate(what: str, error: Exception) -> CloudError:
    if isinstance(error, botocore.exceptions.ClientError):
        details = error.response.get("Error", {})
        code = str(details.get("Code", "an unnamed error"))
        # docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
        denied = code in ("UnauthorizedOperation", "AuthFailure", "AccessDenied")
        return CloudError(
            what,
            f"{code}: {details.get('Message', '')}".rstrip(": ."),
            hint=_HINT if denied else None,
        )
    return CloudError(what, str(error).rstrip("."))
