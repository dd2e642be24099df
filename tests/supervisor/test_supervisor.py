"""Which processes the settings ask for, and that there is one supervisor for a file."""

import os
from pathlib import Path

import pytest

from chappe.engines.file.owner import Ownership
from chappe.errors import AlreadyOwned
from chappe.settings import Pool, Settings
from chappe.supervisor.plan import plan, suspects_spec
from chappe.supervisor.supervisor import Supervisor


def test_the_default_is_a_worker_for_each_core_a_scheduler_and_a_gateway_which_a_new_release_replaces_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 2, 5})
    specs = plan(Settings())
    assert [spec.name for spec in specs] == ["default-1", "default-2", "default-3", "scheduler", "gateway"]
    assert specs[0].arguments == ("worker", "--name", "default", "-c", "16", "-Q", "*")


def test_w3_r14_pools_become_workers_with_their_options() -> None:
    pools = {
        "push": Pool(
            queues=("push.*", "mail"), exclude=("push.slow",), processes=2, concurrency=5, max_messages=100, max_age=60.0, max_memory=512
        ),
        "off": Pool(processes=0),
    }
    specs = plan(Settings(pools=pools), gateway=False, scheduler=False)
    assert [spec.name for spec in specs] == ["push-1", "push-2"]
    said = " ".join(specs[0].arguments)
    assert said == "worker --name push -c 5 -Q push.*,mail -X push.slow --max-messages 100 --max-age 60.0 --max-memory 512"


def test_what_is_declared_for_the_processes_of_a_pool_reaches_each_of_them_and_those_for_suspects() -> None:
    pool = Pool(processes="2..4", environment={"GRAIN": "rye"}, nice=5, log="mill.log", memory_limit=300, start_retries=3)
    settings = Settings(pools={"mill": pool})
    specs = [*plan(settings, {"mill": 3}, gateway=False, scheduler=False), suspects_spec(settings, "mill")]
    assert [spec.name for spec in specs if spec] == ["mill-1", "mill-2", "mill-3", "mill-suspects"]
    for spec in specs:
        assert spec is not None
        assert "--nice 5 --log mill.log" in " ".join(spec.arguments)
        assert (spec.variables, spec.memory_limit, spec.start_retries) == ((("GRAIN", "rye"),), 300, 3)
    assert len(plan(settings, gateway=False, scheduler=False)) == 2, "the least without a word of autoscale"


def test_suspects_of_a_pool_run_one_by_one_in_a_process_that_serves_its_queues() -> None:
    settings = Settings(pools={"push": Pool(queues=("push.*",), exclude=("push.slow",), concurrency=5, max_messages=100)})
    spec = suspects_spec(settings, "push")
    assert spec is not None
    assert " ".join(spec.arguments) == "worker --name push -c 1 -Q push.* -X push.slow --suspects"
    assert suspects_spec(settings, "gone") is None


@pytest.mark.parametrize("broker", ["postgresql://h/d", "amqps://h/"])
def test_servers_have_a_process_for_suspects_and_none_for_an_engine(broker: str) -> None:
    store = "postgresql://h/d" if broker.startswith("amqp") else None
    settings = Settings(broker=broker, store=store, pools={"push": Pool(processes=1)})
    assert suspects_spec(settings, "push") is not None
    assert [spec.name for spec in plan(settings)] == ["push-1", "scheduler", "gateway"]


def test_a_process_has_more_time_to_end_than_its_messages() -> None:
    assert all(spec.grace > 7.0 for spec in plan(Settings(grace=7.0)))


def test_a_second_supervisor_of_one_file_is_refused_naming_the_first(tmp_path: Path) -> None:
    path = tmp_path / "chappe.db"
    with Ownership(Path(f"{path}.supervisor")), pytest.raises(AlreadyOwned, match=f"another chappe run is up .* process {os.getpid()}"):
        Supervisor(Settings(broker=f"sqlite:///{path}"))
