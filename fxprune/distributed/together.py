"""Whether this process compresses alone or with others."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import timedelta
from itertools import count

from torch import distributed

from fxprune.distributed.channel import Channel
from fxprune.distributed.group import ALONE, Group
from fxprune.errors import CalibrationWarning, DistributedError

ARRIVAL = timedelta(minutes=5)
"""That a rank waits for the others to make the same call."""
CONNECTION = timedelta(seconds=20)
"""That it then waits for their connections: one that was killed meanwhile has none."""

_present: ContextVar[Group | None] = ContextVar("group", default=None)
_meetings = count()


def current() -> Group:
    """The group that this process works in now."""
    return _present.get() or ALONE


@contextmanager
def together() -> Iterator[Group]:
    """Work with all ranks of the default process group, where there is one with several.

    What any rank raises inside is raised by all.

    Raises:
        DistributedError: not all ranks of the group come here.
    """
    present = _present.get()
    if present is not None or not _in_a_group():
        yield current()
        return
    group = _meet()
    token = _present.set(group)
    try:
        with _quiet(not group.is_first):
            yield group
        group.finish()
    except Exception as error:
        group.fail(error)
    except BaseException:
        group.leave()
        raise
    finally:
        _present.reset(token)


@contextmanager
def alone() -> Iterator[None]:
    """Calls inside are this process's own, whatever process group there is."""
    token = _present.set(ALONE)
    try:
        yield
    finally:
        _present.reset(token)


def _in_a_group() -> bool:
    return (
        distributed.is_available()
        and distributed.is_initialized()
        and distributed.get_world_size() > 1
    )


def _meet() -> Group:
    """A channel between the CPUs of all ranks, once all of them are here."""
    rank, size, number = distributed.get_rank(), distributed.get_world_size(), next(_meetings)
    keys = [f"fxprune/{number}/{other}" for other in range(size)]
    try:
        absent = _absent(keys, rank)
        if not absent:
            return Group(Channel(distributed.new_group(backend="gloo", timeout=CONNECTION)))
    except RuntimeError as error:
        raise DistributedError(
            f"Rank {rank} of {size} could not connect to another one: it was stopped, or its "
            "machine or the network failed. See what that rank said last."
        ) from error
    raise DistributedError(
        f"Rank {rank} waited {ARRIVAL.seconds // 60} minutes for the call of rank "
        f"{', '.join(absent)}: in a process group, all ranks make the same call. Where this one is "
        "to work by itself, call inside `with fxprune.alone():`."
    )


def _absent(keys: list[str], rank: int) -> list[str]:
    """The ranks that do not come.

    Args:
        keys: under which each says that it is here.
        rank: of this process.

    Raises:
        RuntimeError: the store is gone, with the process that holds it.
    """
    store = distributed.distributed_c10d._get_default_store()
    store.set(keys[rank], "here")
    try:
        store.wait(keys, ARRIVAL)
    except RuntimeError:
        return [str(other) for other, key in enumerate(keys) if not store.check([key])]
    return []


@contextmanager
def _quiet(wanted: bool) -> Iterator[None]:
    """Without our warnings, which the first rank gives."""
    with warnings.catch_warnings():
        if wanted:
            warnings.simplefilter("ignore", CalibrationWarning)
        yield
