"""The flasher: what PID 1 of the RAM OS runs. It ends by restarting the machine.

Exit codes matter to PID 1 only in this: before the point of no return any end of this program
means "restart into the old system", after it "start me again".
"""

import argparse
import sys
import time
from collections.abc import Callable

from flashboot.errors import FlashbootError, explain


def main(arguments: list[str] | None = None) -> int:
    """Run all phases; with --dry-run print the plan and touch nothing."""
    parser = argparse.ArgumentParser(prog="python3 -m flashboot.flasher", description=__doc__)
    parser.add_argument(
        "--handoff", default="/flashboot", metavar="DIR", help="the handoff's files"
    )
    parser.add_argument("--dry-run", action="store_true", help="print the plan and end")
    options = parser.parse_args(arguments)

    from flashboot.machine.kmsg import kmsg

    def say(line: str) -> None:
        if not kmsg(line):
            sys.stdout.write(f"flashboot: {line}\n")

    try:
        return _run(options.handoff, say=say, dry_run=options.dry_run)
    except (FlashbootError, OSError) as error:
        say(f"error: {explain(error)}")
        return error.exit_code if isinstance(error, FlashbootError) else 1


def _run(directory: str, *, say: Callable[[str], None], dry_run: bool) -> int:
    from flashboot.flasher import doors, phases
    from flashboot.flasher.report import Report

    bundle = doors.read_bundle(directory)
    if dry_run:
        for line in phases.dry_run(bundle):
            sys.stdout.write(f"{line}\n")
        return 0
    plan = bundle.handoff
    say(f"the flasher starts: image {plan.image}, run {plan.run}, instance {plan.instance}")
    report = Report(plan.run, plan.instance, phases.PHASES, say)
    cloud = doors.RealCloud(plan, say, ca_file=f"{directory}/ca.pem")
    machine = doors.RealMachine()
    phases.run(phases.Flash(bundle, machine, cloud, report, time.sleep))
    return 1  # a machine that restarted does not come here


if __name__ == "__main__":
    sys.exit(main())
