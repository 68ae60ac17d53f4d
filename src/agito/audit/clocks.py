"""A clock that can be shifted for modules of one folder only; the machinery below keeps the real one."""

from __future__ import annotations

import builtins
import datetime as dt
import time as real_time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

_SECONDS = ("time", "monotonic", "perf_counter", "process_time", "thread_time")


class Clock:
    """Adds `shift_s` to every clock read by a module of `folder` that is imported after `install`."""

    def __init__(self, folder: Path) -> None:
        self.shift_s = 0.0
        self._folder = folder.resolve()
        self._fakes: dict[str, ModuleType] = {"time": self._time(), "datetime": self._datetime()}

    def install(self) -> None:
        found = builtins.__import__

        def importing(name: str, *rest: Any, **named: Any) -> ModuleType:
            module = found(name, *rest, **named)
            fake = self._fakes.get(name)
            of = cast("Mapping[str, object]", (rest[0] if rest else named.get("globals")) or {})
            where = of.get("__file__")
            is_ours = isinstance(where, str) and self._folder in Path(where).resolve().parents
            return fake if fake is not None and is_ours else module

        builtins.__import__ = importing

    def _time(self) -> ModuleType:
        fake = _Standing("time", real_time)

        def shifted(name: str) -> None:
            read, read_ns = getattr(real_time, name), getattr(real_time, f"{name}_ns")
            setattr(fake, name, lambda: read() + self.shift_s)
            setattr(fake, f"{name}_ns", lambda: read_ns() + round(self.shift_s * 1e9))

        for name in _SECONDS:
            shifted(name)
        fake.clock_gettime = lambda clock: real_time.clock_gettime(clock) + self.shift_s  # type: ignore[attr-defined]
        fake.clock_gettime_ns = lambda clock: real_time.clock_gettime_ns(clock) + round(self.shift_s * 1e9)  # type: ignore[attr-defined]
        for name in ("localtime", "gmtime", "ctime"):
            setattr(fake, name, self._converting(getattr(real_time, name)))
        fake.strftime = self._writing(real_time.strftime, 2)  # type: ignore[attr-defined]
        fake.asctime = self._writing(real_time.asctime, 1)  # type: ignore[attr-defined]
        return fake

    def _now(self) -> float:
        return real_time.time() + self.shift_s

    def _converting(self, convert: Callable[[float], Any]) -> Callable[..., Any]:
        def converted(seconds: float | None = None) -> Any:
            return convert(self._now() if seconds is None else seconds)

        return converted

    def _writing(self, write: Callable[..., str], full: int) -> Callable[..., str]:
        """Formats the shifted time if no time is given."""

        def written(*given: Any) -> str:
            return write(*given) if len(given) >= full else write(*given, real_time.localtime(self._now()))

        return written

    def _datetime(self) -> ModuleType:
        fake = _Standing("datetime", dt)
        clock = self

        class Datetime(dt.datetime):
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return cls.fromtimestamp(real_time.time() + clock.shift_s, tz)

            @classmethod
            def utcnow(cls) -> Any:
                return cls.now(dt.UTC).replace(tzinfo=None)

            @classmethod
            def today(cls) -> Any:
                return cls.now()

        class Date(dt.date):
            @classmethod
            def today(cls) -> Any:
                return cls.fromtimestamp(real_time.time() + clock.shift_s)

        fake.datetime, fake.date = Datetime, Date  # type: ignore[attr-defined]
        return fake


class _Standing(ModuleType):
    """A stand-in for a module: attributes it lacks come from the real one."""

    def __init__(self, name: str, real: ModuleType) -> None:
        super().__init__(name)
        self.__dict__["_real"] = real

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_real"], name)
