"""Somebody's agent: a loop over the `openai` package and a server's chat completions, several at once.

    python sdk_loop.py BASE_URL MODEL

A line of standard input begins an episode: {"id", "messages", "tools", "temperature", "max_tokens"}. After
each answer a line of standard output says which tools it calls: {"id", "calls": [{"name", "arguments"}],
"text", "cut", "prompt_ids", "ids"}. The next line with that id brings what they said: {"id", "results",
"max_tokens"}; no results at the end of the episode. Messages are kept here, as the package gives and takes
them.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from typing import Any

import openai  # type: ignore[import-not-found]

_SAID_IDS = {"return_token_ids": True}  # vLLM's; for the comparison with training
_lock = threading.Lock()


def say(line: dict[str, Any]) -> None:
    with _lock:
        print(json.dumps(line), flush=True)


def episode(client: Any, model: str, given: dict[str, Any], heard: queue.Queue[dict[str, Any]]) -> None:
    messages = given["messages"]
    settings = {name: given[name] for name in ("tools", "temperature", "max_tokens")}
    while True:
        try:
            answer = client.chat.completions.create(
                model=model, messages=messages, extra_body=_SAID_IDS, **settings
            )
        except openai.OpenAIError as error:
            say({"id": given["id"], "failure": f"{type(error).__name__}: {error}"[:500]})
            return
        choice = answer.choices[0]
        messages.append(choice.message.model_dump(exclude_none=True))
        uses = choice.message.tool_calls or []
        say(
            {
                "id": given["id"],
                "calls": [{"name": use.function.name, "arguments": use.function.arguments} for use in uses],
                "text": choice.message.content,
                "cut": choice.finish_reason == "length",
                "prompt_ids": answer.model_extra.get("prompt_token_ids"),
                "ids": choice.model_extra.get("token_ids"),
            }
        )
        line = heard.get()
        results, settings["max_tokens"] = line["results"], line["max_tokens"]
        if results is None:
            return
        if not uses:
            messages.append({"role": "user", "content": results[0]})
        for use, result in zip(uses, results, strict=False):
            messages.append({"role": "tool", "tool_call_id": use.id, "content": result})


def main() -> None:
    client = openai.OpenAI(base_url=sys.argv[1], api_key="none", timeout=300.0, max_retries=0)
    running: dict[int, queue.Queue[dict[str, Any]]] = {}
    for text in sys.stdin:
        line = json.loads(text)
        if "messages" not in line:
            running[line["id"]].put(line)
            continue
        heard = running[line["id"]] = queue.Queue()
        threading.Thread(target=episode, args=(client, sys.argv[2], line, heard), daemon=True).start()


if __name__ == "__main__":
    main()
