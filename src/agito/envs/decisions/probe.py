"""Probe: one of several parts is broken; sensors name a part, not always the right one, and each reading has
a price. When should one stop?

A reading of unit log-odds multiplies the odds of the named part by `ODDS`; the strong sensor counts as two
weak ones. So a belief is a score per part (how often it was named), and dynamic programming over scores gives
the value of every belief. An attempt succeeds when all its actions together lost at most `TOLERANCE` against
the optimal ones: the decision is judged, not its luck.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeAlias

from agito.envs.decisions.scene import Family, Hand, Outcome, Scene, Spent, call
from agito.envs.decisions.words import VALUES
from agito.errors import InvalidArguments
from agito.protocols import Script
from agito.types import Call, Dialect, Limits
from agito.worlds.component import Answer, spec, text_of

TOOLS = (
    spec("probe", "Take a reading of a sensor: it names a part.", ["sensor"]),
    spec("submit", "End the episode: this part is broken.", ["part"]),
)
ODDS = 4.0
WEIGHT = {"weak": 1, "strong": 2}  # of a reading, in units of log(ODDS)
MOST = 8  # readings
EPS = 1e-9
# Of full marks. A larger expected loss means a bad decision: stopping too early or reading on too long.
TOLERANCE = 0.05
Prices: TypeAlias = "tuple[tuple[str, int], ...]"  # sensor, price of a reading in hundredths of full marks
Scores: TypeAlias = "tuple[int, ...]"  # descending, the last one 0

_NUM_PARTS = {1: 3, 2: 3, 3: 3, 4: 4, 5: 5}
_PRICES: dict[int, tuple[Prices, ...]] = {
    1: ((("weak", 9),),),
    2: ((("weak", 2),), (("weak", 9),)),
    3: ((("weak", 2),), (("weak", 9),), (("weak", 3), ("strong", 5)), (("weak", 2), ("strong", 12))),
}
_PRICES[4] = _PRICES[5] = (
    *_PRICES[3],
    (("weak", 12),),
    (("weak", 6), ("strong", 20)),
    (("weak", 9), ("strong", 12)),
)
_OTHER_PRICES: tuple[Prices, ...] = (
    (("weak", 5),),
    (("weak", 9), ("strong", 5)),
    (("weak", 2), ("strong", 5)),
)
_NATURAL = (
    "One of {num} parts is broken. A reading of a sensor names a part: {sensors}; otherwise it names one "
    "of the others, each as likely. "
    "A reading has a price, in hundredths of what the right answer is worth. Read until one more reading "
    "is not worth its price, {most} "
    "times at the most, then submit the part that is the likeliest."
)


@dataclass(slots=True)
class _State:
    scores: dict[str, int]
    readings: dict[str, int]
    gaps: list[float]  # loss of each reading against the best action at that belief
    last_gap: float | None = None
    submitted: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    parts: tuple[str, ...]
    broken: str
    prices: Prices
    readings: Mapping[str, tuple[str, ...]]  # what each sensor will say
    limits: Limits
    tools = TOOLS

    @property
    def tags(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.prices)

    @property
    def prompt(self) -> Mapping[Dialect, str]:
        num = len(self.parts)
        sensors = ", ".join(
            f"{name} (price {price}) is right with chance {_chance(name, num):.2f}"
            for name, price in self.prices
        )
        terse = " ".join(f"{name} {price}" for name, price in self.prices)
        return {
            Dialect.COMPACT: f"{num} {terse}",
            Dialect.NATURAL: _NATURAL.format(num=num, sensors=sensors, most=MOST),
        }

    def scene(self) -> Scene:
        return ProbeScene(self)

    def agent(self, hand: Hand) -> Script:
        """Hasty: answers after any reading, reads on when it knows enough, or takes the worse sensor."""
        scores, rng = dict.fromkeys(self.parts, 0), hand.rng
        is_hasty = not hand.is_right()
        way = rng.choice(("early", "early", "early", "early", "late")) if is_hasty else ""
        extra = rng.randint(1, 2) if way == "late" else 0
        for number in range(MOST):
            sensor = best_sensor(_sorted(scores), MOST - number, self.prices)
            if way == "early" and number and rng.random() < 0.9:
                break
            if sensor is None:
                if not extra:
                    break
                extra -= 1
            sensor = sensor or self.prices[0][0]
            if is_hasty and rng.random() < 0.3:
                sensor = rng.choice(self.prices)[0]
            event = yield call("probe", sensor=sensor)
            scores[event.text.strip()] += WEIGHT[sensor]
        yield call("submit", part=max(scores, key=lambda part: scores[part]))


class ProbeScene(Scene):
    state: _State

    def __init__(self, case: Probe) -> None:
        super().__init__(
            TOOLS,
            _State(
                scores=dict.fromkeys(case.parts, 0), readings=dict.fromkeys(dict(case.prices), 0), gaps=[]
            ),
        )
        self.case = case

    @property
    def num_left(self) -> int:
        return MOST - len(self.state.gaps)

    def carry_out(self, call: Call) -> Answer:
        state = self.state
        belief = _sorted(state.scores)
        best = value(belief, self.num_left, self.case.prices)
        if call.tool == "submit":
            state.submitted = text_of(call, "part").strip()
            state.last_gap = best - posterior(state.scores, state.submitted)
            return Answer(text="", submitted=state.submitted)
        sensor = text_of(call, "sensor").strip()
        if sensor not in state.readings:
            raise InvalidArguments(f"probe {sensor}: the sensors are {', '.join(state.readings)}")
        if not self.num_left:
            return Answer(text="no reading is left")
        state.gaps.append(best - worth(belief, self.num_left, self.case.prices, sensor))
        said = self.case.readings[sensor][state.readings[sensor]]
        state.readings[sensor] += 1
        state.scores[said] += WEIGHT[sensor]
        return Answer(text=said)

    def outcome(self) -> Outcome:
        state = self.state
        lost = sum(state.gaps) + (state.last_gap or 0.0)
        success = state.last_gap is not None and lost <= TOLERANCE
        evidence = (
            f"submitted {state.submitted!r}; lost {sum(state.gaps):.3f} by readings, "
            f"{state.last_gap} by the answer"
        )
        scores = {"right": float(state.submitted == self.case.broken), "lost": lost}
        return Outcome(
            success=success, share=1 - lost if lost > EPS else 1.0, evidence=evidence, scores=scores
        )

    def measures(self, spent: Spent) -> dict[str, float]:
        state = self.state
        best = value(_sorted(state.scores), self.num_left, self.case.prices)
        gaps = [*state.gaps, best if state.last_gap is None else state.last_gap]
        return {
            "probe_gap": 100 * sum(gaps),
            "probe_optimal": sum(gap <= EPS for gap in gaps) / len(gaps),
            "probe_readings": float(len(state.gaps)),
            "probe_right": float(state.submitted == self.case.broken),
        }


def posterior(scores: Mapping[str, int], part: str) -> float:
    """P(part is broken | readings) = ODDS^score(part) / Σ ODDS^score; 0 for an unknown part."""
    return ODDS ** scores[part] / sum(ODDS**score for score in scores.values()) if part in scores else 0.0


@lru_cache(maxsize=200_000)
def value(scores: Scores, left: int, prices: Prices) -> float:
    """V(b) = max(max_i P(i | b), max_s Q(b, s)): the value of optimal play, in full marks."""
    stop = ODDS ** scores[0] / sum(ODDS**score for score in scores)
    return max([stop, *(worth(scores, left, prices, sensor) for sensor, _ in prices)]) if left else stop


@lru_cache(maxsize=200_000)
def worth(scores: Scores, left: int, prices: Prices, sensor: str) -> float:
    """Q(b, s) = −price(s) + Σ_j P(s names j | b) V(b + weight(s) at j), with b up to order and a common
    shift."""
    num, weight = len(scores), WEIGHT[sensor]
    right = _chance(sensor, num)
    wrong = (1 - right) / (num - 1)
    total = sum(ODDS**score for score in scores)
    mean = -dict(prices)[sensor] / 100
    for j in range(num):
        said = wrong + (right - wrong) * ODDS ** scores[j] / total
        then = [score + weight * (i == j) for i, score in enumerate(scores)]
        mean += said * value(_canonical(then), left - 1, prices)
    return mean


def best_sensor(scores: Scores, left: int, prices: Prices) -> str | None:
    """None: stopping is at least as good. Ties go to the first sensor."""
    best = value(scores, left, prices)
    if not left or ODDS ** scores[0] / sum(ODDS**score for score in scores) >= best - EPS:
        return None
    return next(sensor for sensor, _ in prices if worth(scores, left, prices, sensor) >= best - EPS)


def _chance(sensor: str, num: int) -> float:
    """p with p / ((1 − p) / (num − 1)) = ODDS^weight."""
    odds = ODDS ** WEIGHT[sensor]
    return odds / (odds + num - 1)


def _sorted(scores: Mapping[str, int]) -> Scores:
    return _canonical(list(scores.values()))


def _canonical(scores: list[int]) -> Scores:
    lowest = min(scores)
    return tuple(sorted((score - lowest for score in scores), reverse=True))


def draw(split: str, level: int, rng: random.Random) -> Probe:
    """`structural`: one part more than in training, at prices that training does not have."""
    is_structural = split == "structural"
    parts = tuple(rng.sample(VALUES, _NUM_PARTS[level] + is_structural))
    broken, prices = rng.choice(parts), rng.choice(_OTHER_PRICES if is_structural else _PRICES[level])

    def read(sensor: str) -> str:
        is_right = rng.random() < _chance(sensor, len(parts))
        return broken if is_right else rng.choice([part for part in parts if part != broken])

    readings = {sensor: tuple(read(sensor) for _ in range(MOST)) for sensor, _ in prices}
    return Probe(
        parts=parts,
        broken=broken,
        prices=prices,
        readings=readings,
        limits=Limits(turns=MOST + 4, calls=MOST + 4, tokens=256, turn_tokens=24, observation_bytes=128),
    )


def open_loop(prompt: str, turns: int, rng: random.Random) -> Script:
    """As many readings as usually pay off."""
    *_, sensor, price = prompt.split()
    for _ in range(1 if sensor == "strong" else 2 if int(price) > 4 else 4):
        yield call("probe", sensor=sensor)
    yield call("submit", part=rng.choice(VALUES))


def anything(prompt: str, rng: random.Random) -> Call:
    reads = rng.random() < 0.7
    return (
        call("probe", sensor=rng.choice(_sensors(prompt)))
        if reads
        else call("submit", part=rng.choice(VALUES))
    )


def _sensors(prompt: str) -> list[str]:
    return [word for word in prompt.split() if word in WEIGHT]


FAMILY = Family(draw=draw, open_loop=open_loop, anything=anything)
