"""Chat templates by family and tool-call formats, against `transformers` and against vLLM's own parsers.

Formats: as many turns as `--turns` says are made for each format, well-formed and broken, and read by ours
and by vLLM's parser. What differs for a reason that `call_reasons.py` names is counted by reason; everything
else is a mismatch. vLLM runs in an environment of its own (VLLM=.venv-vllm, `make vllm`); without it the
answers recorded for the tests are used. gpt-oss' parser also needs OpenAI's vocabulary, in the folder that
TIKTOKEN_ENCODINGS_BASE names.

Families: a conversation with tools, parallel calls, answers and thinking is rendered by our renderer and by
`transformers`' `apply_chat_template`: the same tokens, in increments and whole. More templates than those of
the tests are read from `--templates DIR`, such as the folder `trl/chat_templates` of TRL's wheel.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from agito.record.machine import machine
from agito.render import ChatRenderer, UnsupportedTemplate
from agito.render.tokenizer import ModelTokenizer
from agito.render.tool_formats import FORMATS
from call_fuzz import TOOLS, turns
from call_reasons import REASONS, agrees, ours, reason

HERE = Path(__file__).parent
RENDER = HERE.parent / "tests" / "render"
FIXTURE = RENDER / "vllm_calls.jsonl"
RESULTS = HERE / "results" / "templates.json"
sys.path.insert(0, str(HERE.parent))


def main() -> None:
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--short", action="store_true", help="200 turns a format")
    arguments.add_argument("--turns", type=int, default=1500)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--templates", type=Path, help="more chat templates, *.jinja")
    arguments.add_argument("--record", type=int, metavar="N", help="write N turns a format for the tests")
    given = arguments.parse_args()
    number = given.record or (200 if given.short else given.turns)
    rows = asked(number, given.seed)
    if given.record:
        record(rows)
    formats = compared(rows)
    families = rendered(given.templates)
    unexplained = sum(each["mismatches"] for each in formats.values())
    wrong = sorted(name for name, each in families.items() if each["differs"])
    found = {
        "families": {name: each["format"] for name, each in families.items() if not each["differs"]},
        "formats": formats,
        "mismatches": unexplained + len(wrong),
    }
    if not given.short and not given.record:
        RESULTS.write_text(json.dumps({"machine": machine(), "reasons": REASONS, **found}, indent=1) + "\n")
    print(json.dumps(found))


def asked(number: int, seed: int) -> list[dict[str, Any]]:
    """Turns with vLLM's answers."""
    python = Path(os.environ.get("VLLM", HERE.parent / ".venv-vllm")) / "bin" / "python"
    if not python.is_file():
        print(f"{python}: not there; the answers recorded for the tests are used")
        return [json.loads(line) for line in FIXTURE.read_text(encoding="utf-8").splitlines()]
    rows: list[dict[str, Any]] = [
        {"format": name, "text": text} for name in FORMATS for text in turns(name, number, seed)
    ]
    tools = [
        {
            "type": "function",
            "function": {"name": tool.name, "description": tool.description, "parameters": tool.parameters},
        }
        for tool in TOOLS
    ]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    answered = subprocess.run(
        [python, HERE / "peers" / "vllm_calls.py"],
        input="\n".join(map(json.dumps, [tools, *rows])),
        capture_output=True,
        text=True,
        check=True,
        env=environment,
        timeout=570,
    )
    answers = [line.removeprefix("> ") for line in answered.stdout.splitlines() if line.startswith("> ")]
    for row, answer in zip(rows, answers, strict=True):
        row["vllm"] = json.loads(answer)
    return rows


def record(rows: list[dict[str, Any]]) -> None:
    """For the tests, with the reason where one is known."""
    lines: list[str] = []
    for row in rows:
        mine = ours(row["format"], row["text"], TOOLS)
        why = "" if agrees(mine, row["vllm"]) else reason(row["format"], row["text"], mine, row["vllm"])
        lines.append(json.dumps({**row, **({"reason": why} if why else {})}, ensure_ascii=False))
    FIXTURE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def compared(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name in FORMATS:
        counted: Counter[str] = Counter()
        for row in (row for row in rows if row["format"] == name):
            if row["vllm"] == "unavailable":
                continue
            mine = ours(name, row["text"], TOOLS)
            why = (
                "same"
                if agrees(mine, row["vllm"])
                else reason(name, row["text"], mine, row["vllm"]) or "mismatch"
            )
            counted[why] += 1
            if why == "mismatch":
                print(f"{name}: {row['text']!r}\n  ours {mine}\n  vLLM {row['vllm']}")
        wrong = counted.pop("mismatch", 0)
        same = counted.pop("same", 0)
        found[name] = {"turns": same + wrong + counted.total(), "same": same, "mismatches": wrong, **counted}
    return found


def rendered(more: Path | None) -> dict[str, dict[str, Any]]:
    from tests.render.families import VARIABLES, byte_level, differs, templates

    sources = dict(templates()) | (dict(templates(more)) if more else {})
    found: dict[str, dict[str, Any]] = {}
    for name, source in sources.items():
        tokenizer = byte_level(source)
        try:
            renderer = ChatRenderer(ModelTokenizer(tokenizer.to_str()), source, variables=VARIABLES)
        except UnsupportedTemplate as error:
            print(f"{name}: refused: {error}")
            continue
        wrapped = renderer.tool_format if renderer.is_own else f"{renderer.tool_format} around it"
        what = differs(renderer, tokenizer, source)
        found[name] = {"format": wrapped, "differs": what}
        if what:
            print(f"{name}: {what}")
    return found


if __name__ == "__main__":
    main()
