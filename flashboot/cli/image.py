"""`flashboot image ...`: images in a store, and images onto devices that nobody boots from."""

from typing import TYPE_CHECKING

from flashboot.cli import image_list, image_publish, image_show, image_verify, image_write
from flashboot.cli.parser import add_group

if TYPE_CHECKING:
    from flashboot.cli.parser import Verbs

VERBS = (image_publish, image_list, image_show, image_verify, image_write)


def register(verbs: "Verbs") -> None:
    group = add_group(
        verbs,
        "image",
        summary="publish, list, show, verify and write images",
        description="Images: made from a disk once, kept in a store, the same bytes everywhere.",
    )
    for module in VERBS:
        module.register(group)
