"""Carries a planted fault into every process that a harness starts: Python imports this file at its start.

It does so where PYTHONPATH names this folder and the root of the repository, and CHAPPE_PLANT a plant.
"""

import os

if name := os.environ.get("CHAPPE_PLANT"):
    try:
        from tests.faults.planted import plant

        plant(name)
    except BaseException as error:  # a plant that is not in the ground would look like a harness without teeth
        raise SystemExit(f"the plant {name!r} cannot be planted: {type(error).__name__}: {error}") from error
