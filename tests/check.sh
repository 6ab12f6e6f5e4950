#!/usr/bin/env bash
# The quick loop. Each line names itself, so that a failure is found at a glance; the type checker,
# which takes longest on a cold start, runs beside the rest.
set -uo pipefail
cd "$(dirname "$0")/.."
bin=.venv/bin
failed=0
workers=2
[ -z "${CI:-}" ] || workers=0 # in order, so that what fails there fails here

step() { # NAME COMMAND...
  local name=$1 start=${EPOCHREALTIME/./}; shift
  local output; output=$("$@" 2>&1); local code=$?
  local taken=$(( (${EPOCHREALTIME/./} - start) / 100000 )) # tenths of a second
  local words; words=$(tail -n 1 <<<"$output")
  [ $code = 0 ] || words=FAILED
  printf '%-7s %3d.%d s  %s\n' "$name" $((taken / 10)) $((taken % 10)) "$words"
  [ $code = 0 ] || printf '%s\n' "$output"
  return $code
}

step types $bin/mypy & types=$!
step format $bin/ruff format --check . || failed=1
step lint $bin/ruff check . || failed=1
step layers $bin/lint-imports || failed=1
step unit $bin/pytest -q -n $workers tests/unit || failed=1
wait $types || failed=1
exit $failed
