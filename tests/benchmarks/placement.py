"""Where processes run: a measurement in a process of its own, beside its servers on one CPU or wherever the system
puts them.

Which of the two it is moves figures over a loopback connection by half, so both are reported. The process that measures
is pinned and ends; the servers are started for it, and stopped after it: nothing else is ever moved.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

LIMIT = 600.0
"""Seconds that one measurement may take."""

GRACE = 10.0
"""Seconds in which the process ends by itself after it has answered."""


class ChildFailed(RuntimeError):
    """The measurement raised, ended its process, or took too long; the message holds what is known."""


def one_cpu() -> int | None:
    """The CPU to pin to; nothing where the system can't pin, or there is only one."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    cpus = os.sched_getaffinity(0)
    return max(cpus) if len(cpus) > 1 else None


def pin(process: int, cpu: int) -> None:
    """Let all threads of a process run on one CPU only; threads that they start later do so too."""
    for thread in Path(f"/proc/{process}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {cpu})


def in_child(function: Callable[..., T], *arguments: Any, cpu: int | None = None, beside: Sequence[int] = ()) -> T:
    """Return what ``function`` returns in a process of its own.

    Args:
        function: one of a module; it, its arguments and its result can be pickled.
        cpu: pin that process, and those ``beside`` it, to this CPU.
        beside: processes started for this measurement.

    Raises:
        ChildFailed: it raised, ended the process, or took longer than ``LIMIT``.
    """
    if cpu is not None:
        for process in beside:
            pin(process, cpu)
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(there, cpu, function, arguments))
    child.start()
    there.close()
    try:
        if not here.poll(LIMIT):
            raise ChildFailed(f"no result within {LIMIT:g} s")
        succeeded, result = here.recv()
        child.join(GRACE)
    except EOFError:
        child.join(GRACE)
        raise ChildFailed(f"the process ended with code {child.exitcode}") from None
    finally:
        here.close()
        if child.exitcode is None:
            child.kill()
            child.join()
    if not succeeded:
        raise ChildFailed(result)
    answer: T = result
    return answer


def _answer(there: Connection, cpu: int | None, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
    if cpu is not None:
        pin(os.getpid(), cpu)
    try:
        result = True, function(*arguments)
    except BaseException:
        result = False, traceback.format_exc()
    there.send(result)
