"""The audit passes sound environments and catches each way in which one can be unfit to train on."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from agito.audit import Card, Depth, Mark, audit, read_card
from agito.audit.agents import words_of
from agito.audit.attacks import ATTACKERS, generic
from agito.audit.env_hash import digest_of
from agito.audit.statistics import luck
from agito.envs import load
from agito.errors import NoIsolation, SandboxFailure
from agito.protocols import Control, Environment, Script, ScriptFactory
from agito.testing import FakeEnvironment
from agito.testing.episodes import play
from agito.testing.fakes import FakeWorld, submit
from agito.types import AttemptId, Call, EpisodeArtifacts, Event, Status, Target, Task, Verdict

QUICK = Depth(name="short", seconds=25.0, share=0.15)


async def card_of(make: Callable[[], Environment]) -> Card:
    return await audit(make, depth=QUICK)


def failed(card: Card) -> set[str]:
    return {gate.name for gate in card.failed}


def scored(reward: float, seed: int) -> Verdict:
    return Verdict(status=Status.SCORED, reward=reward, scores={"success": reward}, grade_seed=seed)


class AnythingGoes(FakeEnvironment):
    """Gives full marks to any non-empty answer."""

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        return scored(float(bool(sealed.submitted)), grade_seed)


class SharedDice(FakeEnvironment):
    """Its worlds draw their faults from the process's global generator, which each seeds when opened."""

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        random.seed(f"{noise_seed}/{attempt}")
        return DiceWorld(task, target, attempt, noise_seed)


class DiceWorld(FakeWorld):
    def _answer(self, one: Call) -> Event:
        event = super()._answer(one)
        return (
            replace(event, text=f"empty but for a die that shows {random.randrange(1000)}")
            if event.text == "empty"
            else event
        )


class Remembering(FakeEnvironment):
    """Stores what was opened in a list shared by all its worlds, and shows it."""

    def __init__(self) -> None:
        self.opened: list[str] = []

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        return RememberingWorld(task, target, attempt, noise_seed, self.opened)


class RememberingWorld(FakeWorld):
    def __init__(
        self, task: Task, target: Target, attempt: AttemptId, noise_seed: int, opened: list[str]
    ) -> None:
        super().__init__(task, target, attempt, noise_seed)
        self._all = opened

    def _answer(self, one: Call) -> Event:
        event = super()._answer(one)
        if one.tool != "open" or event.fault is not None:
            return event
        box = str(one.arguments["box"])
        if not box.isdigit():  # a good find: asking for a non-number shows what was asked before
            self._all.append(box)
            return replace(event, text=" ".join(self._all))
        return event


class Moody(FakeEnvironment):
    """Every third grading is inverted."""

    def __init__(self) -> None:
        self.count = itertools.count(1)

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        verdict = await super().grade(sealed, target, grade_seed)
        return verdict if next(self.count) % 3 else scored(1.0 - verdict.reward, grade_seed)


class Picky(FakeEnvironment):
    """Rejects right answers with an odd number of boxes."""

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        verdict = await super().grade(sealed, target, grade_seed)
        return scored(0.0, grade_seed) if int(str(target.data["boxes"])) % 2 else verdict


class Drifting(FakeEnvironment):
    """Counts its episodes and uses the count for the noise."""

    def __init__(self) -> None:
        self.count = itertools.count()

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        return await super().open(task, target, attempt, noise_seed=next(self.count))


class Generous(FakeEnvironment):
    """Pays half for doing nothing."""

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        verdict = await super().grade(sealed, target, grade_seed)
        return verdict if verdict.reward else scored(0.5, grade_seed)


class SaysTooMuch(FakeEnvironment):
    """Boxes have long names, and the error message for a wrong call names the right one."""

    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        return TellingWorld(task, target, attempt, noise_seed)

    def solutions(self, task: Task, target: Target) -> tuple[ScriptFactory, ...]:
        return (lambda: _say(f"box-number-{target.seed}"),)

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        return scored(float(sealed.submitted == f"box-number-{target.seed}"), grade_seed)


class TellingWorld(FakeWorld):
    def _answer(self, one: Call) -> Event:
        event = super()._answer(one)
        return (
            replace(event, text=f"{event.text}; it is box-number-{self._key.seed}") if event.fault else event
        )


def _say(text: str) -> Script:
    yield Call(tool="submit", arguments={"box": text}, raw=f"submit {text}")


@pytest.fixture(scope="module")
async def sound() -> Card:
    return await card_of(FakeEnvironment)


async def test_a_sound_environment_passes_every_gate_and_has_eight_qualities(sound: Card) -> None:
    assert failed(sound) == set()
    assert len(sound.qualities) == 8
    assert sound.measure("difficulty gradient", "success of solver").value == 1.0
    assert sound.measure("difficulty gradient", "success of blind").value == 0.0
    tau = sound.measure("difficulty gradient", "tau").value
    assert tau is not None
    assert tau >= 0.9


async def test_a_card_comes_back_from_its_json_as_it_was(sound: Card, tmp_path: Path) -> None:
    (tmp_path / "card.json").write_bytes(sound.to_json())
    assert read_card(tmp_path / "card.json") == sound
    (tmp_path / "card.json").write_text("{}")
    assert read_card(tmp_path / "card.json") is None


@pytest.mark.parametrize(
    ("environment", "gate"),
    [
        (AnythingGoes, "exploits"),
        (Remembering, "leakage"),
        (Moody, "flake"),
        (Picky, "honest"),
        (Drifting, "determinism"),
        (Generous, "floor"),
    ],
)
async def test_an_unfit_environment_fails_the_gate_that_names_its_flaw(
    environment: type[FakeEnvironment], gate: str
) -> None:
    card = await card_of(environment)
    assert gate in failed(card)
    (quality,) = (each for each in card.qualities if any(one.name == gate for one in each.gates))
    assert quality.mark is Mark.BAD
    assert quality.cases, "a person must be able to look at a case"


async def test_an_environment_whose_only_flaw_is_its_shared_generator_fails_no_other_gate() -> None:
    card = await card_of(SharedDice)
    assert failed(card) == {"interference"}
    assert any(quality.cases for quality in card.qualities if quality.mark is Mark.BAD)


async def test_a_label_told_by_an_error_message_is_a_case() -> None:
    card = await card_of(SaysTooMuch)
    assert card.measure("feedback richness", "labels told").value == 1.0


class WeakTwins(FakeEnvironment):
    """Careless graders: an attack that fools none of them has not been shown to work."""

    def __init__(self, is_right: Callable[[str | None, str], bool]) -> None:
        self.is_right = is_right

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        return scored(float(self.is_right(sealed.submitted, str(target.data["coin"]))), grade_seed)


WEAK: Mapping[str, Callable[[str | None, str], bool]] = {
    "anything": lambda said, coin: bool(said),
    "whatever stands in the answer": lambda said, coin: said is not None and coin in said.split(),
    "an answer that stands in it": lambda said, coin: said is not None and said in f"a coin in box {coin}",
    "a pattern": lambda said, coin: said in (".*", "%"),
    "no answer": lambda said, coin: not (said or "").strip(),
    "no wrong answer": lambda said, coin: said is None,
    "not far off": lambda said, coin: said == "nan",
}


async def test_every_generic_attack_fires_on_a_weak_twin() -> None:
    unfired: set[str] | None = None
    for is_right in WEAK.values():
        environment = WeakTwins(is_right)
        task, target = environment.task(split="heldout", index=0, seed=1)
        rewards = {
            name: (await play(environment, task, target, script)).verdict.reward
            for name, script in generic(environment, task).items()
        }
        lost = {name for name, reward in rewards.items() if not reward}
        unfired = lost if unfired is None else unfired & lost
    assert unfired == set()


async def test_another_battery_is_one_more_entry() -> None:
    def peeking(environment: Environment, task: Task) -> Mapping[str, ScriptFactory]:
        # the seed is in the id
        drawn = random.Random(f"heldout/20261/{task.id.rsplit('-', 1)[-1]}/{task.level}").getrandbits(40)
        return {"peek": lambda: submit(drawn % int(task.prompt[next(iter(task.prompt))].split()[-1]))}

    card = await audit(FakeEnvironment, depth=QUICK, attackers=(*ATTACKERS, peeking))
    assert failed(card) >= {"exploits"}
    assert any("peek" in case.what for quality in card.qualities for case in quality.cases)


class Breaking(FakeEnvironment):
    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        if attempt.group % 3 == 0:
            raise SandboxFailure("the box is gone")
        return await super().open(task, target, attempt, noise_seed=noise_seed)


async def test_broken_episodes_are_counted_and_are_neither_failures_nor_successes() -> None:
    card = await card_of(Breaking)
    broke = card.measure("stability", "broken episodes").value
    assert broke is not None
    assert broke > 0.2
    assert card.measure("anti-cheating", "honest rejected").value == 0.0


class NoSandbox(FakeEnvironment):
    async def open(self, task: Task, target: Target, attempt: AttemptId, *, noise_seed: int) -> Control:
        raise NoIsolation("no user namespaces here")


async def test_a_machine_without_isolation_ends_the_audit() -> None:
    with pytest.raises(NoIsolation):
        await card_of(NoSandbox)


def test_luck_is_the_tail_of_the_binomial() -> None:
    assert luck(0, 5, 0.1) == pytest.approx(1.0)
    assert luck(5, 5, 0.1) == pytest.approx(1e-5)
    assert luck(1, 2, 0.5) == pytest.approx(0.75)


def test_the_audits_own_agents_do_not_ask_a_shell_for_the_time() -> None:
    assert words_of("Tools can time out; times and date too, Tools") == ["Tools", "can", "out", "and", "too"]


def test_a_card_is_of_the_source_however_its_path_is_spelt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "zoo"  # comes after the package's folders, with an empty entry before them
    folder.mkdir()
    (folder / "coin.py").write_text(
        "from agito.testing import FakeEnvironment\n\n\nclass Coin(FakeEnvironment):\n    pass\n"
    )
    monkeypatch.chdir(folder)
    digests = {
        digest_of(load(f"{place}:Coin"))
        for place in ("coin.py", "./coin.py", "../zoo/coin.py", folder / "coin.py")
    }
    assert len(digests) == 1
