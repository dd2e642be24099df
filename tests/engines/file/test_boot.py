"""What is older than this start of the machine is told apart from what is not."""

from __future__ import annotations

import os
from pathlib import Path

from chappe.engines.file.boot import is_of_this_boot


def test_a_file_that_was_just_written_is_of_this_boot_and_an_old_or_missing_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "table"
    assert not is_of_this_boot(path)
    path.write_bytes(b"")
    assert is_of_this_boot(path)
    os.utime(path, (0, 0))
    assert not is_of_this_boot(path)
