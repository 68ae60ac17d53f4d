"""What torch does beside the work itself, spared.

Optimizers and the backward pass load torch's compiler, 2 CPU seconds in each process, only to tell it that
nothing is compiled. A network that a checkpoint is about to fill needs no random weights.
"""

from __future__ import annotations

import importlib
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

from torch.overrides import TorchFunctionMode


class _Spared(ModuleType):
    """Stands for a module of torch until something is wanted of it that is not in `plain`: then it is
    loaded."""

    def __init__(self, name: str, plain: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__(name)
        self.__dict__.update(plain)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # asked by the import system
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def _as_it_is(function: Any = None, *_: Any, **__: Any) -> Any:
    return _as_it_is if function is None else function


_PLAIN: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "torch._dynamo": {"disable": _as_it_is, "graph_break": lambda: None},
    "torch.fx.experimental.symbolic_shapes": {"expect_true": bool, "sym_eq": operator.eq},
}


def without_compiler() -> None:
    """From now on this process loads torch's compiler only if something is compiled. Idempotent."""
    for name, plain in _PLAIN.items():
        sys.modules.setdefault(name, _Spared(name, plain))


class Uninitialised(TorchFunctionMode):
    """Modules that are made in this context keep whatever their memory holds."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if getattr(func, "__module__", "") == "torch.nn.init":
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))
