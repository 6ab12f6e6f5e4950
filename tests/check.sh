#!/usr/bin/env bash
# The quick loop. Each line names itself, so that a failure is found at a glance.
set -uo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
failed=0
step() { # NAME COMMAND...
  local name=$1 start=$EPOCHREALTIME; shift
  local output; output=$("$@" 2>&1); local code=$?
  printf '%-8s %5.1f s  %s\n' "$name" "$(echo "$EPOCHREALTIME - $start" | bc -l 2>/dev/null || echo 0)" "$([ $code = 0 ] && echo ok || echo FAILED)"
  [ $code = 0 ] || { printf '%s\n' "$output"; failed=1; }
}
step format $bin/ruff format --check .
step lint $bin/ruff check .
step types $bin/mypy
step layers $bin/lint-imports
step unit $bin/pytest -q tests/unit
exit $failed
