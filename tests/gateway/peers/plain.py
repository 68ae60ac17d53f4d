"""An agent of somebody's own that needs no package: it calls tools until there is nothing left to call."""

import json
import os
import urllib.request

KEY = os.environ["OPENAI_API_KEY"]


def post(url: str, body: object = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
        url, data, {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)


def main() -> None:
    tools = post(os.environ["AGITO_TOOLS_URL"])
    messages = [{"role": "user", "content": os.environ["AGITO_TASK"]}]
    while True:
        body = {"model": "mine", "messages": messages, "tools": tools}
        message = post(os.environ["OPENAI_BASE_URL"] + "/chat/completions", body)["choices"][0]["message"]
        messages.append(message)
        if not message.get("tool_calls"):
            return
        for use in message["tool_calls"]:
            url = f"{os.environ['AGITO_TOOLS_URL']}/{use['function']['name']}"
            result = post(url, json.loads(use["function"]["arguments"]))
            messages.append({"role": "tool", "tool_call_id": use["id"], "content": result["content"]})


if __name__ == "__main__":
    main()
