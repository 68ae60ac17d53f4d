"""Prints constraints.txt: agito[dev] with all its dependencies, at the installed versions."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, distribution

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEADER = """\
# Every package of agito[dev] with everything that it needs, at the versions that the project is tested with.
# To move one: .venv/bin/pip install -U NAME && make constraints
# torch: make setup takes the CPU build of this version; make setup TORCH=cuda takes the CUDA build."""


def pins(root: str, extras: frozenset[str]) -> dict[str, str]:
    """Name to version, transitively; requirements whose markers do not apply here are left out."""
    found: dict[str, str] = {}
    seen: set[tuple[str, frozenset[str]]] = set()
    waiting = [(root, extras)]
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            package = distribution(name)
        except PackageNotFoundError:
            raise SystemExit(f"{name} is needed but not installed: run make setup first") from None
        found[name] = package.version.split("+")[0]
        for line in package.requires or ():
            need = Requirement(line)
            if need.marker is None or any(need.marker.evaluate({"extra": extra}) for extra in wanted | {""}):
                waiting.append((canonicalize_name(need.name), frozenset(need.extras)))
    return {package: version for package, version in found.items() if package != "agito"}


if __name__ == "__main__":
    print(HEADER)
    for package, version in sorted(
        (pins("setuptools", frozenset()) | pins("agito", frozenset({"dev"}))).items()
    ):
        print(f"{package}=={version}")
