"""The end of a forked child that comes back from the code of a handler: it is a copy of a process that goes on working elsewhere."""

from __future__ import annotations

import os
from typing import Final, NoReturn

from chappe.failures import one_line

EXIT_CODE: Final = 70


def end(name: str) -> NoReturn:
    """End this process, and say why on stderr: it must settle nothing, and run nothing, that its parent settles and runs."""
    line = (
        f"{one_line(name)} called os.fork() and its child ({os.getpid()}) came back from it; the child is ended, its parent goes on: "
        "use subprocess or multiprocessing, or end the child with os._exit() in the handler\n"
    )
    os.write(2, line.encode("utf-8", "backslashreplace"))  # not by a logger, whose thread may be the parent's
    os._exit(EXIT_CODE)
