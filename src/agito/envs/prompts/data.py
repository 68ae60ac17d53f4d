"""Prompts and their columns from a file, a folder or a list, and the part of each split.

JSONL, JSON, Parquet, and the folders of the `datasets` library (`save_to_disk`) and of a model hub.
Everything is held in memory.
"""

# pyarrow ships no types.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeStubs=false

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

import pyarrow as pa
import pyarrow.parquet as pq

from agito.config import meant
from agito.errors import BadEnvironment, NotFound
from agito.record.outcomes import Outcome, outcome_of
from agito.types import Json

Message: TypeAlias = "dict[str, Json]"
_KEYS = ("prompt", "question")  # the column of the prompt, the first that is there
_ROLES = ("system", "developer", "user", "assistant", "tool")
_NAMES = {  # of a folder's splits, the first that is there
    "train": ("train",),
    "validation": ("validation", "valid", "dev", "val", "eval"),
    "heldout": ("heldout", "test"),
}
_MOST = {"heldout": 1000, "validation": 300}  # distinct prompts that are taken away from training


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One prompt. `columns` are all others of its row, and none of them is shown to the policy."""

    id: str  # of what it says: equal rows have equal ids
    messages: tuple[Message, ...]
    columns: Mapping[str, Json]

    @property
    def text(self) -> str:
        """The prompt as one text."""
        if len(self.messages) == 1:
            return str(self.messages[0]["content"])
        return "\n\n".join(f"{message['role']}: {message['content']}" for message in self.messages)

    @property
    def key(self) -> str:
        """Equal for prompts that differ in case and white space alone."""
        return " ".join(self.text.lower().split())


def read_splits(data: Path, heldout: Path | None, holdout: float) -> tuple[dict[str, tuple[Row, ...]], int]:
    """Rows of `train`, `validation` and `heldout`, and how many equal ones were left out. A split for which
    no file is meant takes a part of training, by the prompt's own hash: equal prompts are in one split.
    Raises `NotFound` and `BadEnvironment`.
    """
    parts = _parts(data)
    if heldout is not None:
        apart = _parts(heldout)
        parts["heldout"] = apart.get("heldout") or apart["train"]
    found = {split: _distinct(rows) for split, rows in parts.items()}
    num_equal = sum(len(rows) - len(found[split]) for split, rows in parts.items())
    if "heldout" not in found and "validation" in found:
        found["heldout"] = found.pop("validation")
    keys = sorted(
        {row.key for row in found["train"]},
        key=lambda key: hashlib.blake2b(key.encode(), digest_size=8).digest(),
    )
    for split in ("heldout", "validation"):
        if split not in found:
            taken = frozenset(keys[: min(max(round(holdout * len(keys)), 1), _MOST[split])])
            keys = [key for key in keys if key not in taken]
            found[split] = tuple(row for row in found["train"] if row.key in taken)
            found["train"] = tuple(row for row in found["train"] if row.key not in taken)
    if not all(found.values()):
        sizes = ", ".join(f"{split} {len(rows)}" for split, rows in sorted(found.items()))
        raise BadEnvironment(
            f"prompts {data}: too few distinct prompts for every split: {sizes}; three are the least, some "
            "hundred are useful"
        )
    return found, num_equal


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Something to imitate. `tools` as a chat API takes them."""

    messages: tuple[Message, ...]
    tools: tuple[Json, ...] = ()
    outcome: Outcome | None = None


def read_conversations(given: str | Path) -> list[Conversation]:
    """From rows with `messages`, or with a `prompt` and a `completion`; how one turned out is its `reward` or
    `success`. Raises `NotFound` and `BadEnvironment`.
    """
    path = Path(given)
    if not path.exists():
        raise NotFound(f"conversations {path}: there is no such file or folder")
    raw = _of_folder(path)["train"] if path.is_dir() else _of_file(path)
    return [_conversation(each, f"{path}, row {at}") for at, each in enumerate(raw, 1)]


def _conversation(raw: Mapping[str, Any], where: str) -> Conversation:
    given = _plain(raw.get("messages"))
    if given is None and raw.get("completion") is not None:
        said = _plain(raw["completion"])
        answer: list[Json] = (
            [{"role": "assistant", "content": said}]
            if isinstance(said, str)
            else said
            if isinstance(said, list)
            else []
        )
        given = [*conversation(_plain(raw.get("prompt")), where), *answer]
    if not isinstance(given, list):
        raise BadEnvironment(
            f"{where}: no `messages`, and no `prompt` with a `completion`; it has "
            f"{', '.join(raw) or 'nothing'}"
        )
    messages = tuple(message_of(each, where) for each in given)
    if not any(message["role"] == "assistant" for message in messages):
        raise BadEnvironment(f"{where}: no message is the assistant's, so nothing can be imitated")
    tools = _plain(raw.get("tools"))
    try:
        outcome = outcome_of(raw)
    except ValueError as error:
        raise BadEnvironment(f"{where}: {error}") from None
    return Conversation(
        messages=messages, tools=tuple(tools) if isinstance(tools, list) else (), outcome=outcome
    )


def _distinct(rows: Iterable[Row]) -> tuple[Row, ...]:
    return tuple({row.id: row for row in rows}.values())


def _parts(path: Path) -> dict[str, list[Row]]:
    """By split; `train` is always there."""
    if not path.exists():
        raise NotFound(f"prompts {path}: there is no such file or folder")
    raw = _of_folder(path) if path.is_dir() else {"train": _of_file(path)}
    columns = list(dict.fromkeys(name for rows in raw.values() for row in rows for name in row))
    key = next((each for each in _KEYS if each in columns), None)
    if not columns:
        raise BadEnvironment(f"prompts {path}: it is empty; write one object with a prompt in each line")
    if key is None:
        raise BadEnvironment(
            f"prompts {path}: no column `prompt` (or `question`); its columns are "
            f"{', '.join(columns)}; rename one{meant(_KEYS[0], columns)}"
        )
    others = [name for name in columns if name != key]
    return {
        split: [_row(row, key, others, f"{path}, {split} row {at}") for at, row in enumerate(rows, 1)]
        for split, rows in raw.items()
    }


def _row(raw: Mapping[str, Any], key: str, others: Sequence[str], where: str) -> Row:
    if raw.get(key) is None:
        there = [name for name, value in raw.items() if value is not None]
        raise BadEnvironment(
            f"{where}: no column `{key}`; it has {', '.join(there) or 'nothing'}{meant(key, there)}"
        )
    columns = {name: _plain(raw.get(name)) for name in others}
    messages = tuple(conversation(_plain(raw.get(key)), where))
    said = json.dumps([messages, columns], sort_keys=True, ensure_ascii=False)
    return Row(
        id=hashlib.blake2b(said.encode("utf-8", "replace"), digest_size=8).hexdigest(),
        messages=messages,
        columns=columns,
    )


def conversation(given: Json, where: str) -> list[Message]:
    """A text as the user's message; a list of messages, contents as text. Raises `BadEnvironment`."""
    if isinstance(given, str):
        if not given.strip():
            raise BadEnvironment(f"{where}: the prompt is empty")
        return [{"role": "user", "content": given}]
    if not isinstance(given, list) or not given:
        raise BadEnvironment(
            f"{where}: the prompt is neither a text nor a list of messages: {json.dumps(given)[:80]}"
        )
    messages = [message_of(each, where) for each in given]
    if messages[-1]["role"] == "assistant":
        raise BadEnvironment(
            f"{where}: the last message is the assistant's, so nothing is left to say; end with the user's"
        )
    return messages


def message_of(given: Json, where: str) -> Message:
    """With its content as one text. Raises `BadEnvironment`."""
    if not isinstance(given, dict) or given.get("role") not in _ROLES:
        raise BadEnvironment(
            f"{where}: a message is an object with a role ({', '.join(_ROLES)}) and a content: "
            f"{json.dumps(given)[:80]}"
        )
    content = given.get("content")
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise BadEnvironment(f"{where}: only text can be read, no images or other parts")
        content = "".join(map(str, parts))
    if content is None and given.get("tool_calls"):
        content = ""
    if not isinstance(content, str):
        raise BadEnvironment(f"{where}: the content of a message is no text: {json.dumps(content)[:80]}")
    message: Message = {name: value for name, value in given.items() if value is not None}
    return message | {"content": content}


def _of_file(path: Path) -> list[dict[str, Any]]:
    suffix = path.suffix.lower()
    try:
        if suffix == ".parquet":
            return pq.ParquetFile(path).read().to_pylist()
        if suffix == ".arrow":
            return _of_arrow(path)
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise BadEnvironment(f"prompts {path}: cannot be read: {error}") from error
    if suffix == ".json":
        return _objects([(1, text)], path, whole=True)
    if suffix not in (".jsonl", ".ndjson"):
        raise BadEnvironment(f"prompts {path}: read are .jsonl, .json, .parquet, .arrow, and folders of them")
    return _objects([(at, line) for at, line in enumerate(text.split("\n"), 1) if line.strip()], path)


def _objects(texts: Iterable[tuple[int, str]], path: Path, *, whole: bool = False) -> list[dict[str, Any]]:
    found: list[Any] = []
    for at, text in texts:
        try:
            read = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadEnvironment(f"prompts {path}, line {at}: not JSON: {error}") from None
        found += cast("list[Any]", read) if whole and isinstance(read, list) else [read]
        if not isinstance(found[-1] if found else {}, dict):
            raise BadEnvironment(f"prompts {path}, line {at}: not an object with columns: {text[:80]!r}")
    return found


def _of_arrow(path: Path) -> list[dict[str, Any]]:
    """As `save_to_disk` writes it, a stream, or a file."""
    with pa.memory_map(str(path)) as source:
        try:
            return pa.ipc.open_stream(source).read_all().to_pylist()
        except pa.ArrowInvalid:
            source.seek(0)
            return pa.ipc.open_file(source).read_all().to_pylist()


def _of_folder(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Splits by the names of its files, or of the folders they are in; files of no split are training."""
    kinds = [sorted(path.rglob(f"*{suffix}")) for suffix in (".parquet", ".arrow", ".jsonl", ".json")]
    names = ("dataset_info.json", "dataset_dict.json", "state.json", "dataset_infos.json")
    files = next(
        (kind for each in kinds if (kind := [one for one in each if _is_data(one.relative_to(path), names)])),
        [],
    )
    if not files:
        raise BadEnvironment(f"prompts {path}: no .parquet, .arrow, .jsonl or .json is in this folder")
    raw: dict[str, list[dict[str, Any]]] = {}
    for file in files:
        raw.setdefault(_split_of(file.relative_to(path)), []).extend(_of_file(file))
    if "train" not in raw:
        raise BadEnvironment(
            f"prompts {path}: none of its files is for training: "
            f"{', '.join(str(file.relative_to(path)) for file in files[:5])}"
        )
    return raw


def _is_data(path: Path, names: Sequence[str]) -> bool:
    return path.name not in names and not any(part.startswith((".", "cache-")) for part in path.parts)


def _split_of(path: Path) -> str:
    for part in (path.stem, *reversed(path.parent.parts)):
        for split, names in _NAMES.items():
            if any(
                part.lower() == name or part.lower().startswith((f"{name}-", f"{name}_", f"{name}."))
                for name in names
            ):
                return split
    return "train"


def _plain(value: Any) -> Json:
    """As JSON has it: dates and decimals as text, everything that has no finite number as None."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # half a character cannot be tokenised
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, Mapping):
        return {str(name): _plain(each) for name, each in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in cast("Sequence[Any]", value)]
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return str(value)
