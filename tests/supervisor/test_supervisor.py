"""The supervisor's plan: which processes the settings ask for."""

from pathlib import Path

import pytest

from chappe.engine.owner import Ownership
from chappe.errors import AlreadyOwned
from chappe.settings import Pool, Settings
from chappe.supervisor.supervisor import Supervisor, plan


def test_the_default_is_an_engine_a_gateway_a_scheduler_and_one_worker() -> None:
    engine, others = plan(Settings())
    assert engine.arguments == ("engine",)
    assert [child.name for child in others] == ["gateway", "scheduler", "default-1"]
    assert others[-1].arguments == ("worker", "--name", "default", "-c", "100", "-Q", "*")


def test_pools_become_workers_with_their_options() -> None:
    pools = {
        "push": Pool(
            queues=("push.*", "mail"), exclude=("push.slow",), processes=2, concurrency=5, max_messages=100, max_age=60.0, max_memory=512
        ),
        "off": Pool(processes=0),
    }
    _, others = plan(Settings(pools=pools), gateway=False, scheduler=False)
    assert [child.name for child in others] == ["push-1", "push-2"]
    said = " ".join(others[0].arguments)
    assert said == "worker --name push -c 5 -Q push.*,mail -X push.slow --max-messages 100 --max-age 60.0 --max-memory 512"


def test_a_process_has_more_time_to_end_than_its_messages() -> None:
    _, others = plan(Settings(grace=7.0))
    assert all(child.grace > 7.0 for child in others)


def test_a_second_supervisor_of_one_file_is_refused_naming_the_first(tmp_path: Path) -> None:
    import os

    path = tmp_path / "chappe.db"
    engine, others = plan(Settings())
    with Ownership(Path(f"{path}.supervisor")), pytest.raises(AlreadyOwned, match=f"another chappe run is up .* process {os.getpid()}"):
        Supervisor(path, engine, others)
