"""Every error happycache can end with: a sentence, a hint and an exit code.

The docstring of a class is its sentence: the facts given to the constructor fill the braces.
Codes: 1 unexpected, 2 usage, 3 not ready, 10-15 the map, 20-29 what is dumped or loaded,
130 and 143 interrupted by SIGINT and SIGTERM.
"""

from typing import ClassVar


class HappycacheError(Exception):
    """{}"""

    exit_code: ClassVar[int] = 1
    hint: ClassVar[str] = ""

    def __init__(self, *facts: object) -> None:
        super().__init__(*facts)
        self.facts = facts

    def __str__(self) -> str:
        return (type(self).__doc__ or "{}").format(*self.facts)


def reason(error: OSError) -> str:
    """What the system said, without errno and path: 'No space left on device'."""
    return error.strerror or str(error) or type(error).__name__


def explain(error: HappycacheError) -> str:
    """One line for people: the sentence, then the advice in brackets."""
    return f"{error} [{error.hint}]" if error.hint else str(error)


class UsageError(HappycacheError):
    """{}"""

    exit_code = 2


class NotReady(HappycacheError):
    """Only {:.1f} % of the pages asked for are in memory, {:g} % were wanted{}."""

    exit_code = 3
    hint = "the node works, but reads from disk more than before; the summary says what is missing"


# The map


class MapUnreadable(HappycacheError):
    """The map {} cannot be read: {}."""

    exit_code = 10


class MapMalformed(HappycacheError):
    """This is not a valid residency map: {}."""

    exit_code = 11
    hint = "nothing was loaded; dump again, or go on with a cold cache"


class MapTooLarge(HappycacheError):
    """The residency map is too large: {} has {} bytes, at most {} are accepted."""

    exit_code = 12


class MapDamaged(HappycacheError):
    """The residency map is damaged: its SHA-256 is {}, but {} was written into it."""

    exit_code = 13
    hint = "nothing was loaded; dump again, or go on with a cold cache"


class MapVersionUnknown(HappycacheError):
    """The residency map has version {}, this happycache reads version {}."""

    exit_code = 14
    hint = "load it with the happycache that dumped it, or dump again"


class MapUnwritable(HappycacheError):
    """The map {} cannot be written: {}."""

    exit_code = 15


# What is dumped or loaded


class NotADirectory(HappycacheError):
    """{} cannot be dumped: {}."""

    exit_code = 20
    hint = "name directories that exist"


class RootUnknown(HappycacheError):
    """--root {} does not fit: {}."""

    exit_code = 21


class ResidencyHidden(HappycacheError):
    """The kernel does not tell this user which pages of {} are in memory."""

    # mincore(2), since Linux 5.2 (134fca9063ad): only the owner and who may write are told.
    exit_code = 22
    hint = "run as root or as the owner of the files"
