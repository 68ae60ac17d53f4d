"""The renderer of a Hugging Face folder: its tokenizer.json, its chat template, what ends a turn."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from agito.errors import CorruptCheckpoint
from agito.render.chat import AUTO, ChatRenderer, Tools
from agito.render.template import UnsupportedTemplate
from agito.render.tokenizer import ModelTokenizer
from agito.types import Json

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "generation_config.json",
)
_NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")


def read_chat(
    directory: Path,
    *,
    tools: Tools = "auto",
    tool_format: str = AUTO,
    variables: Mapping[str, Json] | None = None,
) -> ChatRenderer:
    """`variables`: for the template, such as `enable_thinking`; the rest as in `ChatRenderer`.

    Raises `CorruptCheckpoint`, `UnsupportedTemplate`.
    """
    config, network = _json(directory / "tokenizer_config.json"), network_config(directory)
    generation = _json(directory / "generation_config.json")
    named = {name: _content(config[name]) for name in _NAMED if config.get(name) is not None}
    tokenizer = ModelTokenizer.read(directory)
    ends = [token for token in map(tokenizer.control, (named.get("eos_token", ""),)) if token is not None]
    for said in (generation.get("eos_token_id"), network.get("eos_token_id")):
        ends += (
            [said]
            if isinstance(said, int)
            else [int(each) for each in cast("list[Any]", said)]
            if isinstance(said, list)
            else []
        )
    size = network.get("vocab_size")
    return ChatRenderer(
        tokenizer,
        _template(directory, config, tools),
        vocab_size=size if isinstance(size, int) else None,
        end_ids=ends,
        variables={**named, **(variables or {})},
        tools=tools,
        tool_format=tool_format,
        files=_files(directory),
    )


def network_config(directory: Path) -> dict[str, Any]:
    """What `config.json` says; for an adapter, that of its base. Empty if it is missing or damaged."""
    base = _json(directory / "adapter_config.json").get("base_model_name_or_path")
    found = _json(directory / "config.json")
    return found or (_json(Path(base) / "config.json") if isinstance(base, str) else {})


def _files(directory: Path) -> dict[str, str]:
    """As they are; a binary one that says the same as tokenizer.json is left out."""
    there = [directory / name for name in TOKENIZER_FILES if name != "tokenizer.model"]
    return {path.name: path.read_text(encoding="utf-8") for path in there if path.is_file()}


def _template(directory: Path, config: Mapping[str, Any], tools: Tools) -> str:
    beside = directory / "chat_template.jinja"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    found = config.get("chat_template")
    if isinstance(found, list):  # several by name
        by_name = {str(each["name"]): str(each["template"]) for each in cast("list[dict[str, Any]]", found)}
        found = (
            by_name.get("default") if tools == "hermes" else by_name.get("tool_use", by_name.get("default"))
        )
    if not isinstance(found, str):
        raise UnsupportedTemplate(
            f"{directory}: there is no chat template: neither chat_template.jinja nor one in "
            "tokenizer_config.json"
        )
    return found


def _content(token: Any) -> str:
    return str(cast("dict[str, Any]", token).get("content")) if isinstance(token, dict) else str(token)


def _json(path: Path) -> dict[str, Any]:
    """Nothing where there is no such file."""
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise CorruptCheckpoint(f"{path}: {error}: restore the file") from error
    if not isinstance(found, dict):
        raise CorruptCheckpoint(f"{path}: not a JSON object: restore the file")
    return cast("dict[str, Any]", found)
