"""A loop of one's own over the `openai` package; the tools are called by plain HTTP."""

import json
import os
import urllib.request

import openai


def desk(path="", arguments=None):
    headers = {"Authorization": f"Bearer {os.environ['AGITO_KEY']}"}
    url, data = os.environ["AGITO_TOOLS_URL"] + path, arguments and arguments.encode()
    return json.load(urllib.request.urlopen(urllib.request.Request(url, data, headers)))


tools, messages = desk(), [{"role": "user", "content": os.environ["AGITO_TASK"]}]
while not messages[1:] or messages[-1]["role"] == "tool":
    asked = openai.OpenAI().chat.completions.create(model="mine", messages=messages, tools=tools)
    messages.append(asked.choices[0].message.model_dump(exclude_none=True))
    for use in asked.choices[0].message.tool_calls or []:
        content = desk(f"/{use.function.name}", use.function.arguments)["content"]
        messages.append({"role": "tool", "tool_call_id": use.id, "content": content})
