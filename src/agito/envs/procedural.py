"""Base of environments whose tasks are drawn from a seed: ids, seeds and errors of tasks, and a sandbox
pool."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import ClassVar

import anyio

from agito.protocols import SandboxPool
from agito.types import Target, Task
from agito.worlds.sandbox import Pool


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The position of a task in its environment; it determines everything about the task."""

    split: str
    family: str
    level: int
    index: int
    run_seed: int
    id: str  # does not reveal the seed
    seed: int  # of the instance; the same for every family and level


class ProceduralEnvironment:
    """A subclass sets the fields and draws the task at a place. It also implements `open`, `grade` and the
    scripts.

    Indices cycle through families first, then levels.
    """

    name: str
    version: str
    families: tuple[str, ...]
    levels: tuple[int, ...]
    splits: tuple[str, ...] = ("train", "heldout", "structural")
    chance_level: float
    isolation_tier: str = "in memory"
    # default: the name; variants with another environment's tasks set its name
    ids_begin_with: ClassVar[str | None] = None

    def draw(self, place: Place) -> tuple[Task, Target]:
        """The task and its target. Pure."""
        raise NotImplementedError

    def task(
        self, *, split: str, index: int, seed: int, family: str | None = None, level: int | None = None
    ) -> tuple[Task, Target]:
        """Raises `ValueError` for an unknown split, family or level."""
        family = family or self.families[index % len(self.families)]
        level = level or self.levels[index // len(self.families) % len(self.levels)]
        if split not in self.splits or family not in self.families or level not in self.levels:
            known = (
                f"{', '.join(self.splits)}; {', '.join(self.families)}; levels "
                f"{', '.join(map(str, self.levels))}"
            )
            raise ValueError(f"split={split!r} family={family!r} level={level}: {self.name} has {known}")
        where = f"{split}/{seed}/{index}".encode()
        digest = hashlib.blake2b(where, digest_size=6).hexdigest()
        return self.draw(
            Place(
                split=split,
                family=family,
                level=level,
                index=index,
                run_seed=seed,
                id=f"{self.ids_begin_with or self.name}-{split}-{family}-{level}-{digest}",
                seed=zlib.crc32(where) << 20 | index & 0xFFFFF,
            )
        )

    async def aclose(self) -> None:
        return


class SandboxedEnvironment(ProceduralEnvironment):
    """With a sandbox pool, opened at first use; `warm` sandboxes are kept ready."""

    def __init__(self, *, pool: SandboxPool | None = None, warm: int = 4) -> None:
        self._pool, self._warm = pool, warm
        self._opening = anyio.Lock()

    @property
    def isolation_tier(self) -> str:  # type: ignore[override]
        """The isolation of episodes, known once one has been opened."""
        return self._pool.tier if self._pool else "unknown"

    async def pool(self) -> SandboxPool:
        async with self._opening:
            self._pool = self._pool or await Pool.open(warm=self._warm)
        return self._pool

    async def aclose(self) -> None:
        if self._pool is not None:
            await self._pool.aclose()
            self._pool = None
