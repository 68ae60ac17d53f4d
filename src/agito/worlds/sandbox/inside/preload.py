"""What a zygote imports once, for the scripts of all its sandboxes.

It happens where the zygote is: without the host's files, its network or an environment. What is imported was
installed by whoever opened the pool, and is read-only.
"""

from __future__ import annotations

import os
import sys
from typing import Any


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
    for folder in warm["site"]:
        site.addsitedir(folder)
    for name in warm["modules"]:
        try:
            __import__(name)
        except (Exception, SystemExit):
            pass
    num_threads = len(os.listdir("/proc/self/task"))
    if num_threads > 1:
        return f"one of {', '.join(warm['modules'])} starts {num_threads - 1} thread(s) when it is imported"
    return ""
