"""A tool server's answer as text: text as it is, everything else by name, address, type and size."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any, cast

from agito.types import Fault, Json
from agito.worlds.component import Answer

# Wordings for arguments that do not fit, from the Python and TypeScript SDKs, pydantic, zod and jsonschema.
_MISFIT = re.compile(
    r"(Error executing tool \S+: )?(MCP error -3260[12]|Input validation error|Invalid "
    r"(arguments|input|params)|\d+ validation errors? for "
    r"|Unknown tool|Tool \S+ not found)",
    re.IGNORECASE,
)
_TEXTUAL = re.compile(r"text/|application/(json|xml|javascript|x-sh|yaml)|.*\+(json|xml)$")


def answer(result: Mapping[str, Json]) -> Answer:
    content, structured = result.get("content"), result.get("structuredContent")
    parts = [_part(each) for each in (content if isinstance(content, list) else [])]
    text = "\n".join(part for part in parts if part)
    if structured is not None and not all(leaf in text for leaf in _leaves(structured)):
        text = f"{text}\n{json.dumps(structured, ensure_ascii=False)}".lstrip("\n")
    fault = None
    if result.get("isError"):
        fault = Fault.POLICY if _MISFIT.match(text) else Fault.TOOL
    return Answer(text=text, fault=fault)


def _part(content: Json) -> str:
    if not isinstance(content, dict):
        return ""
    text = content.get("text")
    if content.get("type", "text") == "text" and isinstance(text, str):
        return text
    resource = content.get("resource")
    held = resource if isinstance(resource, dict) else content
    blob = held.get("blob", held.get("data"))
    said = [
        str(content.get("type")),
        *(
            str(held[name])
            for name in ("name", "title", "uri", "mimeType")
            if isinstance(held.get(name), str)
        ),
    ]
    body = held.get("text") if isinstance(held.get("text"), str) else held.get("description")
    if isinstance(blob, str) and blob:
        try:
            data = base64.b64decode(blob, validate=True)
            said.append(f"{len(data)} bytes")
            if _TEXTUAL.match(str(held.get("mimeType"))):
                body = data.decode()
        except (binascii.Error, UnicodeDecodeError):
            said.append("not shown")
    head = f"[{' '.join(' '.join(said).split())}]"
    return f"{head}\n{body}" if isinstance(body, str) and body else head


def _leaves(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [leaf for each in cast("dict[str, Any]", value).values() for leaf in _leaves(each)]
    if isinstance(value, list):
        return [leaf for each in cast("list[Any]", value) for leaf in _leaves(each)]
    return [value if isinstance(value, str) else json.dumps(value)]
