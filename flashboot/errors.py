"""Every error flashboot can end with: a sentence, a hint and an exit code.

The docstring of a class is its sentence: the facts given to the constructor fill the braces.
Library code raises these and never exits; `flashboot.cli.main` prints one and exits with its code.
Codes: 1 anything else, 2 usage, 3 confirmation, 10-19 image documents, 20-29 stores,
30-39 the machine, 40-49 flashing, 50-59 the node's verbs, 60-69 the cloud, 70 publishing,
130 interrupted.
"""

from typing import ClassVar


class FlashbootError(Exception):
    """{}"""

    exit_code: ClassVar[int] = 1
    hint: ClassVar[str] = ""

    def __init__(self, *facts: object, hint: str | None = None) -> None:
        super().__init__(*facts)
        self.facts = facts
        self.advice = type(self).hint if hint is None else hint

    def __str__(self) -> str:
        try:
            return (type(self).__doc__ or "{}").format(*self.facts)
        except IndexError:  # too few facts: a poor sentence is better than a second error
            return ": ".join([type(self).__name__, *map(str, self.facts)])


def explain(error: BaseException) -> str:
    """One line: the error, then each cause behind an arrow, then the advice in brackets."""
    parts: list[str] = []
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        text = " ".join(str(link).split()) or type(link).__name__
        if not parts or text not in parts[-1]:
            parts.append(text)
        seen.append(link)
        link = link.__cause__
    advice = getattr(error, "advice", "")
    return " -> ".join(parts) + (f" [{advice}]" if advice else "")


class UsageError(FlashbootError):
    """{}"""

    exit_code = 2


class NotConfirmed(FlashbootError):
    """This would {} and nobody said yes."""

    exit_code = 3
    hint = "say --yes to go on, or --dry-run to see what would be done"


# Image documents


class MalformedDocument(FlashbootError):
    """The {} is malformed: {}."""

    exit_code = 10
    hint = "nothing was changed; publish the image again or ask who wrote this object"


class DocumentTooLarge(FlashbootError):
    """The {} has {} bytes, more than the {} that a reader accepts."""

    exit_code = 11


class DigestMismatch(FlashbootError):
    """The {} has digest {}, but {} was promised."""

    exit_code = 12
    hint = "the store holds other bytes than published; `flashboot image publish --repair` mends it"


class UnfitImage(FlashbootError):
    """Image {} does not fit here: {}."""

    exit_code = 13


# Stores


class StoreError(FlashbootError):
    """The store at {} cannot be used: {}."""

    exit_code = 20


class ObjectMissing(StoreError):
    """The store at {} has no object {}."""

    exit_code = 21
    hint = "check the image's name with `flashboot image list`, and the store's address"


class AccessDenied(StoreError):
    """The store at {} refuses access to {}: {}."""

    exit_code = 22
    hint = "check the role's policy (README, IAM policy) and the credentials in use"


class StoreUnavailable(StoreError):
    """The store at {} did not answer for {}: {}."""

    exit_code = 23
    hint = "check network, endpoint and proxy, then try again"


class ObjectExists(StoreError):
    """The store at {} already has another object {}."""

    exit_code = 24
    hint = "names are immutable; choose another name"


# The machine


class MachineError(FlashbootError):
    """{}: {}."""

    exit_code = 30


class DeviceBusy(MachineError):
    """{} is in use: {}."""

    exit_code = 31
    hint = "unmount or stop what uses it, or name another device"


class DeviceFailed(MachineError):
    """{} failed to {} {} bytes at {}: {}."""

    exit_code = 32


class CommandFailed(MachineError):
    """The command `{}` failed with {}: {}."""

    exit_code = 33


class KexecRefused(MachineError):
    """The kernel refuses kexec: {}."""

    exit_code = 34


# Flashing


class ChunkMismatch(FlashbootError):
    """Chunk {} of image {} is wrong in the store: digest {} was promised, {} was found."""

    exit_code = 40
    hint = "the store holds other bytes than published; `flashboot image publish --repair` mends it"


class NotArmed(FlashbootError):
    """This node was restarted into the RAM OS, but nobody said `flashboot flash`."""

    exit_code = 44
    hint = "the old system starts again unchanged; stage again, then say `flashboot flash`"


class NotVerified(FlashbootError):
    """{} does not hold the image: {}."""

    exit_code = 41


class WrongDevice(FlashbootError):
    """No device fits what was staged: {}."""

    exit_code = 42


class NoMemory(FlashbootError):
    """Not enough memory: {} are needed, {} are there."""

    exit_code = 43


# The node's verbs


class Refused(FlashbootError):
    """This node cannot be flashed: {}."""

    exit_code = 50
    hint = "nothing was changed; remove the causes and try again"


class NotStaged(FlashbootError):
    """Nothing is staged on this node."""

    exit_code = 51
    hint = "run `flashboot stage --image NAME` first"


class LeaveFailed(FlashbootError):
    """The node did not leave its system: {}."""

    exit_code = 52
    hint = "services were started again and the system runs on unchanged"


class NotArrived(FlashbootError):
    """This system is not what was flashed: {}."""

    exit_code = 53


# The cloud


class CloudError(FlashbootError):
    """{} failed: {}."""

    exit_code = 60


class NoMetadata(CloudError):
    """The instance metadata service did not answer for {}: {}."""

    exit_code = 61
    hint = "IMDSv2 must be reachable; check the instance's metadata options"


# Publishing


class PublishFailed(FlashbootError):
    """Publishing {} failed: {}."""

    exit_code = 70


class Interrupted(FlashbootError):
    """Interrupted; what was done so far is kept and the same command continues it."""

    exit_code = 130
