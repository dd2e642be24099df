"""Damages files at random, has an engine run on them and `recover` save them, and counts what became of every message."""

from __future__ import annotations

import hashlib
import logging
import random
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from chappe.engines.file.recovery import recover
from chappe.errors import CorruptStorage

from .patients import HttpProtocol, Outcome, patient, run_engine

KINDS = ("flip", "zero", "cut")
_ORDER = (("", True), ("-wal", False), ("", False))  # the file that is hurt, and whether all is in the database already


class Options(NamedTuple):
    """How much is done: `messages` in each file, `cases` in all, fewer if so many faults as `most` were found before."""

    cases: int = 300
    seed: int = 1
    messages: int = 60
    most: int = 100


class Injury(NamedTuple):
    """What is done to which of the files of a database, from a seed."""

    file: str
    kind: str
    seed: int

    def hurt(self, path: Path) -> None:
        """Damage the file, or its log."""
        target = Path(f"{path}{self.file}")
        chance = random.Random(f"{self.file} {self.kind} {self.seed}")
        data = bytearray(target.read_bytes())
        at = chance.randrange(len(data))
        match self.kind:
            case "flip":
                for _ in range(chance.randint(1, 8)):
                    data[at + chance.randrange(min(16, len(data) - at))] ^= 1 << chance.randrange(8)
            case "zero":
                start = at // 4096 * 4096
                data[start : start + 4096] = bytes(len(data[start : start + 4096]))
            case _:
                del data[at:]
        target.write_bytes(data)


class Case(NamedTuple):
    """What became of one damaged file: `faults` are promises that were broken."""

    verdict: str
    faults: list[str]
    lost: int


def run(options: Options, folder: Path) -> dict[str, Any]:
    """Hurt, run and save as many files as asked for, and give the evidence."""
    started = time.monotonic()
    logging.disable(logging.CRITICAL)
    try:
        patients = {whole: patient(folder / f"patient-{whole}", options.messages, checkpoint=whole) for whole in (True, False)}
        verdicts, lost = Counter[str](), Counter[str]()
        faults: list[str] = []
        for number in range(options.cases):
            file, whole = _ORDER[number % len(_ORDER)]
            injury = Injury(file, KINDS[number // len(_ORDER) % len(KINDS)], options.seed * 1_000_003 + number)
            case = treat(patients[whole], injury, folder / "case")
            where = f"{injury.kind} {'log' if file else 'database' if whole else 'database behind a log'}"
            verdicts[f"{where}: {case.verdict}"] += 1
            lost[where] += case.lost
            faults += [f"{injury}: {fault}" for fault in case.faults]
            if len(faults) >= options.most:
                break
    finally:
        logging.disable(logging.NOTSET)
    return {
        "options": options._asdict(), "messages": len(patients[True].everything), "verdicts": dict(sorted(verdicts.items())),
        "not saved, on average": {where: round(count * 9 / options.cases, 2) for where, count in sorted(lost.items()) if count},
        "faults": faults, "seconds": round(time.monotonic() - started, 1),
    }  # fmt: skip


def treat(patient: HttpProtocol, injury: Injury, folder: Path) -> Case:
    """Hurt a copy, have an engine run on one copy of that, and save another."""
    faults: list[str] = []
    sick = patient.copy(folder / "sick")
    try:
        injury.hurt(sick)
        before = _digests(folder / "sick")
        shutil.copytree(folder / "sick", folder / "run")
        met = run_engine(folder / "run" / sick.name)
        if met.refused and _digests(folder / "run") != before:
            faults.append(f"refused, but changed: {met.error}")
        if met.wrong:
            faults.append(f"{met.wrong} wrong payloads delivered")
        saved, said, notes = _save(sick, folder / "new.db", faults)
        if _digests(folder / "sick") != before:
            faults.append("recover changed the file")
    finally:
        shutil.rmtree(folder)
    lost = len(patient.everything) if saved is None else max(0, len(patient.everything - saved.given) - saved.damaged)
    said_so = any("had ended" in note or "of the log are" in note for note in notes)
    if saved is not None and (more := saved.given - patient.everything) and not said_so:
        faults.append(f"{len(more)} messages that had ended are there again, and recover does not say so")
    if lost and saved is not None and said:
        faults.append(f"recover said that all is saved, but {lost} messages are lost")
    missing = max(0, len(patient.everything - met.given) - met.damaged) if met.error is None else 0
    if missing:
        faults.append(f"{missing} messages are lost, and the engine says nothing")
    return Case("lost in silence" if missing else _verdict(met), faults, lost)


def _verdict(met: Outcome) -> str:
    if met.error is None:
        return "damaged letters" if met.damaged else "harmless"
    if met.error.startswith("not said"):
        return "refused without a reason"
    return "refused" if met.refused else "stopped"


def _save(sick: Path, target: Path, faults: list[str]) -> tuple[Outcome | None, bool, list[str]]:
    """Save the file; give what an engine makes of the new one, if there is one, whether the report says that all is saved, and its notes."""
    try:
        report = recover(sick, target)
    except CorruptStorage as error:
        if target.exists():
            faults.append(f"there is a new file although recover ended with: {error}")
        return None, False, []
    found = run_engine(target)
    if found.error is not None:
        faults.append(f"the new file does not run: {found.error}")
    if found.wrong:
        faults.append(f"{found.wrong} wrong payloads delivered from the new file")
    return found, report.whole, [*report.notes, *report.faults]


def _digests(folder: Path) -> dict[str, str]:
    """Return what is in the database and its log; the rest is made anew at every start."""
    files = {name: folder / name for name in ("chappe.db", "chappe.db-wal")}
    return {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if path.exists() and path.stat().st_size}
