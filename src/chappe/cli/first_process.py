"""What the first process of a container owes the others: orphans that end are cleared away, and signals reach who ends for them.

The kernel gives the first process every orphan, and ignores signals that it has no handler for. So it stays apart: it starts the
verb in a process of its own and does nothing else, and no child of the verb's is ever waited for by two.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import Final

_PASSED_ON: Final = frozenset(
    {
        signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTTIN, signal.SIGUSR1, signal.SIGUSR2,
        signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH,
    }
)  # fmt: skip


def divide_first_process() -> None:
    """Return in a new process if this is the first one of its container or machine, which then waits and ends with the same code."""
    if os.getpid() != 1:
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {*_PASSED_ON, signal.SIGCHLD})  # none is lost while there is nobody to have it
    child = os.fork()
    if child == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    while True:
        found = signal.sigwaitinfo({*_PASSED_ON, signal.SIGCHLD})
        if found.si_signo != signal.SIGCHLD:
            if found.si_code <= 0:  # what a terminal sends, it has sent to the child too
                os.kill(child, found.si_signo)
        else:
            for ended, code in ended_children():
                if ended == child:
                    os._exit(code if code >= 0 else 128 - code)


def ended_children(tell: Callable[[int], None] = lambda _: None) -> Iterator[tuple[int, int]]:
    """Take and yield the exit codes of all children that have ended, a signal as its number, negative.

    `tell` is told each while its number is nobody else's.
    """
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
            tell(ended.si_pid)
            child, status = os.waitpid(ended.si_pid, 0)
            yield child, os.waitstatus_to_exitcode(status)
