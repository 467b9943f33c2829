"""A function in a process of its own with a time limit: one failure never stops a run of many.

Limits are of processor time, so that other work on the machine does not change what passes.
"""

import multiprocessing
import os
import resource
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

FORK = multiprocessing.get_context("fork")


class Failed(Exception):
    """The process raised, died or took too long; `trace` holds its traceback where it has one."""

    def __init__(self, message: str, trace: str = ""):
        super().__init__(message)
        self.trace = trace


PATIENCE = 5
"""Wall-clock limit, as a multiple of the processor seconds: for what waits for ever."""


def _child(
    send: Connection, seconds: int, function: Callable[..., Any], args: tuple[Any, ...]
) -> None:
    # A session of its own, so that what the function starts ends with it.
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 5))
    try:
        send.send((True, function(*args)))
    except BaseException as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        send.send((False, (f"{type(error).__name__}: {first}", traceback.format_exc())))
    finally:
        send.close()


def isolated(seconds: int, function: Callable[..., Any], *args: Any) -> Any:
    """What `function(*args)` returns, computed in a fork of this process.

    Args:
        seconds: of processor time; PATIENCE times that by the clock.
        function: its result must be picklable.

    Raises:
        Failed: it raised, the process died, or the time was up.
    """
    receive, send = FORK.Pipe(duplex=False)
    process = FORK.Process(target=_child, args=(send, seconds, function, args))
    process.start()
    send.close()
    try:
        if not receive.poll(PATIENCE * seconds):
            raise Failed(f"took longer than {PATIENCE * seconds} s")
        done, value = receive.recv()
    except EOFError:
        process.join()
        if process.exitcode == -signal.SIGXCPU:
            raise Failed(f"took longer than {seconds} s") from None
        raise Failed(
            f"the process died (exit code {process.exitcode}; -9 is out of memory)"
        ) from None
    finally:
        receive.close()
        if process.is_alive():
            process.join(1)
        if process.is_alive() and process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        process.join()
    if not done:
        raise Failed(*value)
    return value
