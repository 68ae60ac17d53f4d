"""The same agent over the official SDKs: `sdk.py chat|responses|messages [stream]`."""

import json
import os
import sys
import urllib.request

API, STREAMS = sys.argv[1], "stream" in sys.argv
TOOLS_URL, TASK, KEY = os.environ["AGITO_TOOLS_URL"], os.environ["AGITO_TASK"], os.environ["OPENAI_API_KEY"]


def use(tool: str, arguments: dict) -> str:
    request = urllib.request.Request(
        f"{TOOLS_URL}/{tool}", json.dumps(arguments).encode(), {"authorization": f"Bearer {KEY}"}
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)["content"]


with urllib.request.urlopen(
    urllib.request.Request(TOOLS_URL, headers={"authorization": f"Bearer {KEY}"})
) as found:
    TOOLS = [each["function"] for each in json.load(found)]


def chat() -> None:
    import openai  # pyright: ignore[reportMissingImports]

    client = openai.OpenAI()
    messages: list = [{"role": "user", "content": TASK}]
    tools: list = [{"type": "function", "function": tool} for tool in TOOLS]
    while True:
        if STREAMS:
            with client.chat.completions.stream(model="gpt-4o", messages=messages, tools=tools) as stream:
                message = stream.get_final_completion().choices[0].message
        else:
            message = (
                client.chat.completions.create(model="gpt-4o", messages=messages, tools=tools)
                .choices[0]
                .message
            )
        messages.append(message.model_dump(exclude_none=True))
        if not message.tool_calls:
            return
        for each in message.tool_calls:
            content = use(each.function.name, json.loads(each.function.arguments))
            messages.append({"role": "tool", "tool_call_id": each.id, "content": content})


def responses() -> None:
    import openai  # pyright: ignore[reportMissingImports]

    client = openai.OpenAI()
    items: list = [{"role": "user", "content": TASK}]
    tools: list = [{"type": "function", "strict": False, **tool} for tool in TOOLS]
    while True:
        if STREAMS:
            with client.responses.stream(model="gpt-4o", input=items, tools=tools) as stream:
                found = stream.get_final_response()
        else:
            found = client.responses.create(model="gpt-4o", input=items, tools=tools)
        items += [item.model_dump(exclude_none=True) for item in found.output]
        calls = [item for item in found.output if item.type == "function_call"]
        if not calls:
            return
        for each in calls:
            output = use(each.name, json.loads(each.arguments))
            items.append({"type": "function_call_output", "call_id": each.call_id, "output": output})


def messages() -> None:
    import anthropic  # pyright: ignore[reportMissingImports]

    client = anthropic.Anthropic()
    said: list = [{"role": "user", "content": TASK}]
    tools: list = [
        {"name": tool["name"], "description": tool["description"], "input_schema": tool["parameters"]}
        for tool in TOOLS
    ]
    while True:
        wish = {"model": "claude", "max_tokens": 4096, "messages": said, "tools": tools}
        if STREAMS:
            with client.messages.stream(**wish) as stream:
                found = stream.get_final_message()
        else:
            found = client.messages.create(**wish)
        said.append(
            {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in found.content]}
        )
        calls = [block for block in found.content if block.type == "tool_use"]
        if not calls:
            return
        results = [
            {"type": "tool_result", "tool_use_id": each.id, "content": use(each.name, each.input)}
            for each in calls
        ]
        said.append({"role": "user", "content": results})


{"chat": chat, "responses": responses, "messages": messages}[API]()
