"""How a new release takes the place of the old one: in which order, and back again when it does not come up."""

from collections.abc import Sequence

import pytest

from chappe.errors import InvalidSettings
from chappe.settings import Pool, Settings
from chappe.supervisor.child import Child
from chappe.supervisor.plan import ChildSpec, plan
from chappe.supervisor.release import Release
from chappe.supervisor.replacement import refuse_other_place, replace_all

SETTINGS = Settings(pools={"mill": Pool(processes=2)})


class Host:
    """Keeps children that are ready at once, but for those of a new release that are named; notes what happens."""

    def __init__(self, specs: Sequence[ChildSpec], old: Release, broken: str = "") -> None:
        self.children: list[Child] = []
        self.events: list[str] = []
        self.meanwhile: list[Release] = []  # what a process is added of while one of the new release starts
        self._old = old
        self._broken = ""
        for spec in specs:
            self.add(spec, old)
        self.events.clear()
        self._broken = broken

    @property
    def running(self) -> Sequence[Child]:
        return [child for child in self.children if not child.retired]

    def add(self, spec: ChildSpec, release: Release | None = None) -> Child:
        child = Child(spec, release)
        self.children.append(child)
        self.events.append(f"start {spec.name} {'old' if release is self._old else 'new'}")
        if release is not self._old and spec.name == self._broken:
            child.ended.set()
        else:
            child.came_up = True
            child.ready.set()
        while release is not self._old and self.meanwhile:
            self.add(ChildSpec("mill-suspects", ("worker", "--suspects")), self.meanwhile.pop())
        return child

    async def retire(self, child: Child) -> None:
        child.retired = True
        self.events.append(f"end {child.spec.name}")


def releases() -> tuple[Release, Release]:
    return Release(SETTINGS, {}), Release(SETTINGS, {})


async def test_workers_have_ended_before_the_gateway_changes_and_each_successor_is_ready_before() -> None:
    old, new = releases()
    host = Host(plan(SETTINGS), old)
    assert await replace_all(host, old, new, plan(SETTINGS))
    names = ("mill-1", "mill-2", "scheduler", "gateway")
    at = {event: position for position, event in enumerate(host.events)}
    for name in names:
        assert at[f"start {name} new"] < at[f"end {name}"]
    for name in names[:3]:
        assert at[f"end {name}"] < at["start gateway new"]
    assert len(host.running) == 4


async def test_pools_that_grow_shrink_come_and_go_follow_the_new_settings() -> None:
    old, new = releases()
    host = Host(plan(SETTINGS), old)
    wanted = plan(Settings(pools={"mill": Pool(processes=1), "other": Pool(processes=2)}))
    assert await replace_all(host, old, new, wanted)
    assert sorted(child.spec.name for child in host.running) == ["gateway", "mill-1", "other-1", "other-2", "scheduler"]


@pytest.mark.parametrize("broken", ["mill-1", "mill-2", "scheduler", "gateway"])
async def test_a_release_whose_processes_do_not_come_up_is_taken_back_whole(broken: str) -> None:
    old, new = releases()
    host = Host(plan(SETTINGS), old, broken)
    before = {child.spec.name for child in host.running}
    assert not await replace_all(host, old, new, plan(SETTINGS))
    assert {child.spec.name for child in host.running} == before
    assert len(host.running) == len(before)
    ended_old = [event for event in host.events if event.startswith("end")]
    assert "end gateway" not in ended_old or broken == "gateway"


@pytest.mark.parametrize("change", [{"port": 7071}, {"host": "localhost"}, {"broker": "sqlite:///other.db"}, {"app": "other:app"}])
def test_what_a_reload_cannot_change_is_refused_by_name(change: dict[str, object]) -> None:
    (name,) = change
    with pytest.raises(InvalidSettings, match=f'"{name}" cannot be changed by a reload'):
        refuse_other_place(Settings(), Settings(**change))  # type: ignore[arg-type]


@pytest.mark.parametrize("broken", ["", "gateway"])
async def test_a_process_that_was_added_meanwhile_does_not_outlive_its_release(broken: str) -> None:
    old, new = releases()
    host = Host(plan(SETTINGS), old, broken)
    host.meanwhile = [old, new]
    assert await replace_all(host, old, new, plan(SETTINGS)) is not bool(broken)
    assert {child.release for child in host.running} == {old if broken else new}
