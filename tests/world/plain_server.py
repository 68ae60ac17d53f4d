"""A tool server without any library, which starts at once: a shelf in memory and on disk, tools that sleep,
die and send requests.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "value": {"type": "integer"}},
    "required": ["name"],
}
held: dict[str, int] = {}


def send(**message: object) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def use(tool: str, name: str, value: int | None = None) -> str:
    Path("data").mkdir(exist_ok=True)
    file = Path("data", name)
    if tool == "put":
        held[name] = value or 0
        file.write_text(str(value))
    if tool == "sleep":
        time.sleep(1.0)
    if tool == "die":
        os._exit(3)
    if tool == "ask":
        send(id="mine", method="sampling/createMessage", params={})
        return json.loads(input())["error"]["message"]
    if tool == "internal":
        raise RuntimeError("the shelf fell down")
    return f"{held.get(name, 'none')} in memory, {file.read_text() if file.exists() else 'none'} on disk"


while True:
    message = json.loads(input())
    method, number = message["method"], message.get("id")
    if method == "initialize":
        send(
            id=number,
            result={
                "protocolVersion": "2025-06-18",
                "capabilities": {},
                "serverInfo": {"name": "plain", "version": "1"},
            },
        )
    elif method == "tools/list":
        page = int(message["params"].get("cursor") or 0)
        names = ["put", "get", "sleep", "die", "ask", "internal", "forgotten"]
        more = {"nextCursor": str(page + 1)} if page + 1 < len(names) else {}
        send(id=number, result={"tools": [{"name": names[page], "inputSchema": SCHEMA}], **more})
    elif method == "tools/call" and message["params"]["name"] == "forgotten":
        send(id=number, error={"code": -32602, "message": "unknown tool: forgotten"})
    elif method == "tools/call":
        try:
            text = use(message["params"]["name"], **message["params"]["arguments"])
            send(
                id=number, result={"content": [{"type": "text", "text": text}, {"type": "image", "data": ""}]}
            )
        except RuntimeError as error:
            send(id=number, error={"code": -32603, "message": str(error)})
