"""The whole flash, as `make demo` plays it: every promise in its summary is checked there."""

from typing import Literal

import pytest

from tests.rig.demo import demo
from tests.rig.story import Story


@pytest.mark.parametrize("firmware", ["bios", "uefi"])
def test_the_whole_flash(firmware: Literal["bios", "uefi"]) -> None:
    story = Story()
    demo(story, firmware=firmware)
    print(story.summary())
    print(story.picture())
    assert story.facts["root device"] == "equals the published image, byte for byte"
    assert story.facts["data disk"].startswith("0 writes, 0 trims")
    assert story.facts["data disk"].endswith("no byte changed")
    assert story.facts["now running"] == "NAME=NEW"
    assert "flashboot:state=ready" in story.facts["instance tags"]
