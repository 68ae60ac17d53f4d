"""A keeper's own root: the files that all sandboxes share, through mounts that they do not share.

A lock on a file or directory is visible only through the same overlay mount. The directories for tools and
layers are the real ones, as they grow; they can be entered but not opened. Devices are the keeper's own if
the host is root, otherwise the machine's.
"""

from __future__ import annotations

import os

from agito.worlds.sandbox.inside import kernel, template

_NEW = "/run/root"
_EMPTY = "/run/empty"  # overlay needs two layers, neither inside the other
_FLAGS = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_RDONLY
_REAL = ("proc", "run/tools", "run/layers")


def can_be_had() -> bool:
    """Whether `move_in` works here; tried on one directory."""
    try:
        _cover("/usr", _NEW)
        kernel.umount(_NEW)
    except OSError:
        return False
    return True


def move_in(number: int) -> None:
    """Moves the calling process, keeper `number`, into its own mount namespace with such a root. Raises
    `OSError`.
    """
    kernel.unshare(kernel.CLONE_NEWNS)
    mounted = [place for place in _mounted() if place not in ("/", "/proc", _EMPTY, template.NODES)]
    tops = [place for place in mounted if not any(place.startswith(f"{other}/") for other in mounted)]
    _cover("/", _NEW)
    for place in (*tops, *(f"/{name}" for name in _REAL)):
        has_inner = any(other.startswith(f"{place}/") for other in mounted)
        if os.path.isdir(place) and place[1:] not in _REAL and not has_inner:
            _cover(place, _NEW + place)
        else:  # overlay does not show mounts inside
            own = f"{template.NODES}/{number % template.NUM_NODES}/{place[len('/dev/') :]}"
            source = own if place.startswith("/dev/") and os.path.exists(own) else place
            kernel.mount(source, _NEW + place, None, kernel.MS_BIND | kernel.MS_REC)
    os.chdir(_NEW)
    kernel.pivot_root(".", ".")
    kernel.umount(".")


def _cover(source: str, target: str) -> None:
    kernel.mount("root", target, "overlay", _FLAGS, f"lowerdir={source}:{_EMPTY}")


def _mounted() -> list[str]:
    with open("/proc/self/mountinfo", "rb") as file:
        return [os.fsdecode(line.split()[4]).encode().decode("unicode_escape") for line in file]
