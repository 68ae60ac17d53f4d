"""Calls a function of somebody's file, with the task's prompt if it takes one: `call.py FILE FUNCTION`.
Imports nothing of ours.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
from pathlib import Path


def main(file: str, name: str) -> None:
    sys.path.insert(0, str(Path(file).parent))
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    assert spec is not None and spec.loader is not None, file
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    function = getattr(module, name)
    made = function(os.environ["AGITO_TASK"]) if inspect.signature(function).parameters else function()
    if inspect.iscoroutine(made):
        import asyncio  # noqa: TID251 - the guest's loop, in the guest's process

        asyncio.run(made)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
