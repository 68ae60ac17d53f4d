"""Training refuses an environment that fails its audit, says why, and remembers when it was made to train all
the same.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import COIN, Agito, sets

from agito.audit import Depth, audit, read_card
from agito.envs import bundled, load
from agito.errors import NotAdmitted
from agito.testing import FakeEnvironment
from agito.training.admission import Source, admit, cache, known_card

LOOSE = """
from agito.testing import FakeEnvironment
from agito.types import Status, Verdict


class Loose(FakeEnvironment):
    async def grade(self, sealed, key, grade_seed):
        reward = float(bool(sealed.submitted))
        return Verdict(status=Status.SCORED, reward=reward, scores={"success": reward}, grade_seed=grade_seed)


class Own(FakeEnvironment):
    name = "own"
"""
QUICK = Depth(name="short", seconds=25.0, share=0.05)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / ".cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(LOOSE)
    return tmp_path


def test_a_refused_environment_leaves_no_run_and_is_told_its_gate_and_the_way_around(
    agito: Agito, home: Path
) -> None:
    done = agito("train", "quickstart", *sets(*COIN, "env.name=own.py:Loose"), expect=13)
    for word in (
        "own.py:Loose is not fit to train on",
        "exploits: ",
        "Remedy: ",
        "agito audit own.py:Loose",
        "--admit-anyway",
    ):
        assert word in done.stderr
    assert not (home / "runs").exists()
    done = agito("train", "quickstart", *sets(*COIN, "env.name=own.py:Loose", "rl.steps=0"), "--admit-anyway")
    assert "admitted anyway: exploits" in done.stderr
    for name in ("run.json", "summary.json"):
        kept = json.loads((home / "runs/quickstart-own-Loose" / name).read_text())["admission"]
        assert kept["anyway"] is True
        assert "exploits" in kept["failed"]


def test_the_audit_command_prints_the_card_writes_its_page_and_ends_as_the_gates_do(
    agito: Agito, home: Path
) -> None:
    done = agito("audit", "own.py:Loose", "--short", "--html", "card.html", expect=13)
    for word in (
        "stability",
        "realism",
        "scenario coverage",
        "difficulty gradient",
        "state diversity",
        "feedback richness",
        "anti-cheating",
    ):
        assert word in done.stdout
    assert "not fit to train on" in done.stdout
    page = (home / "card.html").read_text()
    assert "not fit to train on: exploits" in page
    assert "<script" not in page
    card = json.loads(agito("audit", "own.py:Own", "--short", "--json").stdout)
    assert card["environment"] == "own"
    assert all(gate["holds"] for quality in card["qualities"] for gate in quality["gates"])


async def test_a_new_environment_is_audited_once_and_again_when_its_source_changes(home: Path) -> None:
    began: list[str] = []
    first = await admit("own.py:Own", depth=QUICK, begins=lambda name: began.append("first"))
    again = await admit("own.py:Own", depth=QUICK, begins=lambda name: began.append("again"))
    assert (first.source, again.source, began) == (Source.AUDITED, Source.OWN, ["first"])
    assert first.digest == again.digest
    (home / "own.py").write_text(LOOSE + "\nCHANGED = True\n")
    changed = await admit("own.py:Own", depth=QUICK, begins=lambda name: began.append("changed"))
    assert changed.source is Source.AUDITED
    assert changed.digest != first.digest
    assert len(list(cache().glob("*.json"))) == 2


async def test_whoever_is_admitted_anyway_pays_for_no_audit(home: Path) -> None:
    found = await admit("own.py:Loose", anyway=True)
    assert (found.source, found.anyway, found.failed) == (Source.NONE, True, ())
    with pytest.raises(NotAdmitted, match="exploits"):
        await admit("own.py:Loose", depth=QUICK)
    assert "exploits" in (await admit("own.py:Loose", anyway=True)).failed


async def test_a_cache_that_cannot_be_written_only_costs_time(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))
    assert (await admit("own.py:Own", depth=QUICK)).source is Source.AUDITED
    assert (await admit("own.py:Own", depth=QUICK)).source is Source.AUDITED


@pytest.mark.full
@pytest.mark.timeout(400)
@pytest.mark.parametrize("name", [*bundled(), "agito.testing:FakeEnvironment"])
async def test_every_shipped_card_belongs_to_its_source_and_still_holds(name: str, home: Path) -> None:
    card, source = known_card(load(name))
    assert source is Source.SHIPPED, f"{name} has changed: python benchmarks/audit_all.py --ship"
    assert card is not None
    assert not card.failed
    found = await audit(lambda: load(name))
    assert not found.failed, [gate.found for gate in found.failed]


def test_a_card_that_cannot_be_read_is_no_card(home: Path) -> None:
    (home / "torn.json").write_text('{"schema": 1}')
    assert read_card(home / "torn.json") is None
    assert read_card(home / "gone.json") is None
    assert known_card(FakeEnvironment())[1] in (Source.SHIPPED, Source.NONE)


async def test_every_environment_of_a_mixture_is_admitted_or_none(home: Path) -> None:
    found = await admit("own.py:Own", "own.py:Loose", anyway=True)
    assert found.anyway and found.digest.count("+") == 1
    with pytest.raises(NotAdmitted):
        await admit("own.py:Own", "own.py:Loose", depth=QUICK)
