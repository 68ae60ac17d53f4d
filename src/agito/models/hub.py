"""Pre-trained models by name: a folder, a model from `agito models get`, or a hub id where there is a
network."""

from __future__ import annotations

import re
from pathlib import Path

from agito.config import meant
from agito.errors import NotFound
from agito.models.fetch import MODELS

_FOLDER = Path("models")  # where `agito models get` puts models
_LOCAL = ("runs", "models", "checkpoints", "policies")  # folders of ours: what stands there is nobody else's
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_FILES = (".py", ".toml", ".json", ".jsonl", ".safetensors", ".gguf", ".html", ".txt")
_OURS = re.compile(r"final|step-\d+")


def is_hub_id(name: str) -> bool:
    """Whether a name may be a hub's, rather than a path of somebody's own. A path is never sent anywhere."""
    owner, _, model = name.partition("/")
    if not _HUB_ID.fullmatch(name) or model.endswith(_FILES) or _OURS.fullmatch(model):
        return False
    return owner not in _LOCAL and not Path(owner).exists()


def folder_of(name: str) -> Path:
    """The folder of a model. Raises `NotFound`, which says how to get it."""
    path = Path(name).expanduser()
    if path.is_dir():
        return path.absolute()
    if name in MODELS or path.name in MODELS:
        if (_FOLDER / path.name).is_dir():
            return (_FOLDER / path.name).absolute()
        raise NotFound(f"model {name}: it is not there yet; run: agito models get {path.name}")
    if not is_hub_id(name):
        raise NotFound(
            f"model {name}: there is no such folder{meant(path.name, MODELS)}; agito models list shows those "
            "that can be got"
        )
    try:
        from huggingface_hub import snapshot_download  # pyright: ignore[reportUnknownVariableType]
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
    except ImportError as error:
        raise NotFound(
            f"model {name}: there is no such folder; for hub ids: pip install 'agito[models]'"
        ) from error
    patterns = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError) as error:
        raise NotFound(
            f"model {name}: there is no such folder, and the hub did not give it: "
            f"{str(error).splitlines()[0]}"
        ) from error
