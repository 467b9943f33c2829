"""How much memory a process holds while it works, station by station."""

import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

EVERY = 0.02
"""Seconds between two looks."""
STATUS = Path("/proc/self/status")
LOG = logging.getLogger(__name__)
TOOK = re.compile(r"([a-z ]+) took [\d.]+ s")
"""What fxprune logs at the end of a station."""


def resident() -> tuple[int, int]:
    """Bytes of memory that is the process' own, and of pages of files, which the system may take
    back at any time. Linux only.
    """
    text = STATUS.read_text()
    own, files = (
        1024 * int(found[1]) if (found := re.search(rf"{key}:\s+(\d+) kB", text)) else 0
        for key in ("RssAnon", "RssFile")
    )
    return own, files


@dataclass
class Watched:
    """Peaks by station, in the order in which stations first end.

    Attributes:
        own, files: bytes; the pages of files include code.
        seconds: processor time by station, between its end and that of the one before.
        held: own bytes when each station last ended.
    """

    own: dict[str, int] = field(default_factory=dict)
    files: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    held: dict[str, int] = field(default_factory=dict)

    @property
    def peak(self) -> int:
        """Most bytes of own memory."""
        return max(self.own.values(), default=0)


class _Stations(logging.Handler):
    """Takes the peaks since the last station's end for those of the one that ends."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Watched()
        self._peak, self._last = (0, 0), time.process_time()
        self._lock_peak = threading.Lock()

    def look(self) -> None:
        """Once."""
        now = resident()
        with self._lock_peak:
            self._peak = max(self._peak[0], now[0]), max(self._peak[1], now[1])

    def emit(self, record: logging.LogRecord) -> None:
        """Close a station."""
        match = TOOK.fullmatch(record.getMessage())
        if match:
            self.close_station(match[1])

    def close_station(self, name: str) -> None:
        """What was since the last end is this station's."""
        self.look()
        with self._lock_peak:
            (own, files), self._peak = self._peak, (0, 0)
        found, now = self.found, time.process_time()
        found.own[name] = max(own, found.own.get(name, 0))
        found.files[name] = max(files, found.files.get(name, 0))
        found.seconds[name] = found.seconds.get(name, 0.0) + now - self._last
        found.held[name] = resident()[0]
        LOG.info("%s: %.2f GB at most, %.2f GB left", name, own / 1e9, found.held[name] / 1e9)
        self._last = now


@contextmanager
def watched() -> Iterator[Watched]:
    """Watch memory until the end, by the stations of the logger `fxprune`."""
    stations, done = _Stations(), threading.Event()
    log = logging.getLogger("fxprune")
    level = log.level

    def watch() -> None:
        while not done.wait(EVERY):
            stations.look()

    thread = threading.Thread(target=watch, daemon=True)
    log.addHandler(stations)
    log.setLevel(logging.INFO)
    thread.start()
    try:
        yield stations.found
    finally:
        done.set()
        thread.join()
        stations.close_station("after")
        log.removeHandler(stations)
        log.setLevel(level)
