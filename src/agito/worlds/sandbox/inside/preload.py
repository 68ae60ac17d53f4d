"""What a zygote imports once, for the scripts of all its sandboxes.

It happens where the zygote is: without the host's files, its network, or a variable of one script alone. What
is imported was installed by whoever opened the pool, and is read-only.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

_draw_anew: list[Callable[[], object]] = []
_own: set[str] = set()


def load(warm: dict[str, Any]) -> str:
    """Makes this interpreter that of a virtual environment, and imports its modules. One that cannot be
    imported is left to the script, which will meet the same error. Returns why forks of this process would
    be unsound, if they would be.
    """
    sys.path[:] = warm["library"]
    import site

    sys.__dict__.update(
        dict.fromkeys(("prefix", "exec_prefix"), warm["prefix"]), executable=warm["executable"]
    )
    site.setquit()
    site.setcopyright()
    site.sethelper()
    os.environ.update(warm["env"])
    for folder in warm["site"]:
        site.addsitedir(folder)
    for name in warm["modules"]:
        try:
            __import__(name)
        except (Exception, SystemExit):
            pass
    _draw_anew.extend(_generators())
    _own.update(warm["own"])
    num_threads = len(os.listdir("/proc/self/task"))
    if num_threads > 1:
        return f"one of {', '.join(warm['modules'])} starts {num_threads - 1} thread(s) when it is imported"
    return ""


def begin_script() -> None:
    """In a fork that will be a script: generators of random numbers that were made by an import draw others
    than in the next fork, and modules that the script brings itself are not those of the same name that
    something else has imported.
    """
    for seed in _draw_anew:
        seed()
    for name in [*sys.modules]:
        if name.partition(".")[0] in _own:
            del sys.modules[name]


def _generators() -> Iterator[Callable[[], object]]:
    """How each of them is seeded anew. The module `random` does it for its own."""
    plain, arrays = sys.modules.get("random"), sys.modules.get("numpy.random")
    seeded = (plain and plain.Random, arrays and arrays.RandomState)
    for each in gc.get_objects():
        bases = type(each).__mro__
        if plain and plain.SystemRandom in bases:
            continue
        if any(base in bases for base in seeded if base):
            yield each.seed
        elif arrays and arrays.Generator in bases:
            yield lambda bits=each.bit_generator: setattr(bits, "state", type(bits)().state)
