"""Forked processes that tell what they do, line by line, and how each ends."""

import json
import math
import os
import selectors
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

PATIENCE = 30.0
"""Seconds after which a process that should have ended hangs."""
Tell = Callable[..., None]
"""Takes what there is to tell, by name."""


@dataclass
class Told:
    """What a process told before it ended.

    Attributes:
        kept: names of the steps that it kept.
        digest: of its result; empty where it gave none.
        error: in words, of fxprune's; empty where there was none.
        crash: a traceback of anything else.
    """

    kept: list[str] = field(default_factory=list)
    digest: str = ""
    error: str = ""
    crash: str = ""


@dataclass(frozen=True)
class Ended:
    """How a process ended.

    Attributes:
        code: of its exit; negative for a signal.
        told: by it.
    """

    code: int
    told: Told


class Process:
    """A forked process.

    Args:
        work: what it does, and does not return from; is given what takes what it tells.

    Attributes:
        reads: end of a pipe at which it is heard.
        text: what was heard so far.
    """

    def __init__(self, work: Callable[[Tell], object]):
        self.reads, write = os.pipe()
        self.text = b""
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self.reads)

            def tell(**entry: str) -> None:
                left = (json.dumps(entry) + "\n").encode()
                while left:
                    left = left[os.write(write, left) :]

            try:
                work(tell)
            finally:
                os._exit(1)
        os.close(write)

    def send(self, number: signal.Signals) -> None:
        """A signal."""
        os.kill(self._pid, number)

    def end(self) -> Ended:
        """How it ended."""
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        os.close(self.reads)
        told = Told()
        # The last line may be half of one.
        for line in self.text.decode(errors="replace").splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            for name, value in entry.items():
                if name == "kept":
                    told.kept.append(value)
                elif name in ("digest", "error", "crash"):
                    setattr(told, name, value)
        return Ended(code, told)


def listen(processes: Sequence[Process], seconds: float, lines: float = math.inf) -> bool:
    """Hear processes so long, or until the first one has told so many lines, or all have ended;
    whether they have.
    """
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        for process in processes:
            selector.register(process.reads, selectors.EVENT_READ, process)
        while selector.get_map():
            left = end - time.monotonic()
            if left <= 0 or processes[0].text.count(b"\n") >= lines:
                return False
            for key, _ in selector.select(left):
                text = os.read(key.fd, 1 << 16)
                if not text:
                    selector.unregister(key.fd)
                key.data.text += text
    return True
