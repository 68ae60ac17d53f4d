"""A check that pays for a coin flip, and a validator that rejects every payment."""

from __future__ import annotations

from agito.testing import FakeEnvironment
from agito.types import EpisodeArtifacts, Status, Target, Verdict


class PayingCoin(FakeEnvironment):
    name = "paying-coin"

    async def grade(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        return _verdict(float(int(sealed.digest, 16) % 2))

    async def gold(self, sealed: EpisodeArtifacts, target: Target, grade_seed: int) -> Verdict:
        return _verdict(0.0)


def _verdict(reward: float) -> Verdict:
    return Verdict(status=Status.SCORED, reward=reward, scores={"success": reward})
