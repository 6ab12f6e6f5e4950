"""`flashboot image list`: what a store has to offer."""

import argparse
from typing import TYPE_CHECKING

from flashboot.cli import opening, output
from flashboot.cli.parser import add_store, add_verb

if TYPE_CHECKING:
    from flashboot.cli.parser import Verbs


def register(verbs: "Verbs") -> None:
    parser = add_verb(
        verbs,
        "list",
        run=run,
        summary="the images in a store",
        description="List the images in a store, by name.",
        example="flashboot image list --store s3://images/prod",
    )
    add_store(parser)


def run(arguments: argparse.Namespace) -> int:
    from flashboot.store import catalog

    store = opening.store_of(arguments)
    names = catalog.image_names(store)
    output.result({"images": list(names)}, "\n".join(names), as_json=arguments.json)
    return 0
