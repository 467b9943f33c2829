"""An entry in a process of its own, so that none can hang or crash the campaign; and records of
what came of it, so that a campaign can be cut into shards and go on where it stopped.
"""

import json
import os
import select
import signal
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from benchmarks.opinfo.outcome import Outcome, Tried, judge
from benchmarks.opinfo.variants import Entry

LIMIT = 300.0
"""Seconds after which an entry is stopped."""


def judge_apart(name: str, op: Entry, most: int, seed: int, limit: float = LIMIT) -> Outcome:
    """As `judge`, in a fork of this process; an error where it dies or takes longer."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        code = 1
        try:
            os.close(read)
            with os.fdopen(write, "w") as pipe:
                pipe.write(to_json(judge(name, op, most, seed)))
            code = 0
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(write)
    text, end = b"", time.monotonic() + limit
    with os.fdopen(read, "rb", buffering=0) as pipe:
        while select.select([pipe], [], [], max(end - time.monotonic(), 0))[0]:
            part = pipe.read(1 << 16)
            if not part:
                break
            text += part
        else:
            os.kill(child, signal.SIGKILL)
            text = b""
    status = os.waitpid(child, 0)[1]
    if not text or status:
        signaled = os.WIFSIGNALED(status)
        how = f"signal {os.WTERMSIG(status)}" if signaled else f"code {os.WEXITSTATUS(status)}"
        return Outcome(name, "error", f"its process ended with {how} (limit: {limit:.0f} s)")
    return from_json(text.decode())


def to_json(outcome: Outcome) -> str:
    """One line."""
    return json.dumps(asdict(outcome))


def from_json(line: str) -> Outcome:
    """What `to_json` wrote."""
    held = json.loads(line)
    tried = tuple(Tried(**one) for one in held["tried"])
    return Outcome(held["name"], held["verdict"], held["text"], tried)


def read_records(paths: Iterable[Path]) -> dict[str, Outcome]:
    """Outcomes by name; of an entry that was judged twice the last one."""
    lines = [line for path in paths if path.exists() for line in path.read_text().splitlines()]
    return {outcome.name: outcome for outcome in map(from_json, lines)}
