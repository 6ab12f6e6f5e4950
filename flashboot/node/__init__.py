"""Program 2, on the serving node: check, stage, cancel, flash, status; arrive at the first boot.

Decisions are pure functions over frozen facts (findings.py, report.py, arrival.py); effects go
through the doors of system.py, which local.py opens on a real machine and tests fake.
"""
