"""The rig by hand: `python -m tests.rig demo|shell`.

demo    play the main job once and sum it up
shell   start the cloud and an instance with image app-42 published, and log into it
"""

import argparse
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from tests.rig.cloud import REPOSITORY, STORE, Cloud
from tests.rig.demo import IMAGE, DemoFailed, demo, tell_end
from tests.rig.node import Node
from tests.rig.prepare import prepare
from tests.rig.story import Story


def main() -> int:
    """Run a command of the rig; Ctrl-C and SIGTERM end everything it started."""
    parser = argparse.ArgumentParser(prog="python -m tests.rig", description=__doc__)
    parser.add_argument("command", choices=("demo", "shell"))
    parser.add_argument("--firmware", choices=("bios", "uefi"), default="bios")
    parser.add_argument("--json", action="store_true", help="the demo's summary as JSON")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if options.command == "shell":
            return shell(options.firmware)
        story = Story()
        demo(story, firmware=options.firmware)
        tell_end(story, as_json=options.json)
    except KeyboardInterrupt:
        print("interrupted; everything was ended", file=sys.stderr)
        return 130
    except DemoFailed as error:
        print(f"FAILED: {error}", file=sys.stderr)
        return 1
    return 0


def shell(firmware: str) -> int:
    """An instance to play with; it ends with the shell."""
    home = REPOSITORY / ".cache" / "rig"
    home.mkdir(parents=True, exist_ok=True)
    story = Story()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=home)))
        cloud = Cloud(directory / "cloud")
        story.say("building what is not cached, starting the cloud")
        parts = prepare(lambda: _enter(stack, cloud))
        story.say(f"publishing NEW as {IMAGE} in {STORE}")
        cloud.flashboot(
            "image", "publish", parts.images.new, "--name", IMAGE, "--ramos", parts.ramos
        )
        mode: Literal["bios", "uefi"] = "uefi" if firmware == "uefi" else "bios"
        node = stack.enter_context(
            Node(cloud, parts.images.old, parts.images.key, directory / "node", firmware=mode)
        )
        story.say("booting OLD (half a minute)")
        node.boot()
        node.qemu.pause_at_reset(pause=False)
        node.configure()
        story.say(f"console: {directory / 'node' / 'console.log'}")
        story.say(f"try: flashboot stage --image {IMAGE}; flashboot flash --unprotected --yes")
        story.say("when the connection ends, a new one is made once sshd answers; Ctrl-D ends all")
        while True:
            code = subprocess.call([*node.ssh.arguments(), "-t", "guest"])
            node.ssh.disconnect()
            if code != 255:  # ssh's own word for a connection that was lost
                return 0
            node.ssh.wait(timeout_seconds=600)


def _enter(stack: ExitStack, cloud: Cloud) -> None:
    stack.enter_context(cloud)


if __name__ == "__main__":
    sys.exit(main())
