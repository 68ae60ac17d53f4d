"""Asks a gateway what a client of the official SDK asks, and prints what it was answered as JSON."""

import json
import os
import sys

import openai  # pyright: ignore[reportMissingImports]

TOOL = {
    "name": "open",
    "description": "Open a box.",
    "parameters": {"type": "object", "properties": {"box": {"type": "string"}}, "required": ["box"]},
}
HI: list = [{"role": "user", "content": "Where is the coin?"}]
client = openai.OpenAI(max_retries=0)
found: dict = {"models": [each.id for each in client.models.list().data]}


def ask(messages: list = HI, **more: object):
    wish = {"model": "any", "messages": messages, "max_tokens": 16, "temperature": 0} | more
    return client.chat.completions.create(**wish)


def logprobs(choice) -> list:
    return [each.logprob for each in choice.logprobs.content]


first = ask(logprobs=True)
answer = first.choices[0].message
found["whole"] = [answer.content, logprobs(first.choices[0]), first.usage.completion_tokens]
with client.chat.completions.stream(
    model="any", messages=HI, max_tokens=16, temperature=0, logprobs=True
) as stream:
    pieces = [event.delta for event in stream if event.type == "content.delta"]
    last = stream.get_final_completion().choices[0]
found["streamed"] = [last.message.content, logprobs(last), len(pieces)]
more = [*HI, answer.model_dump(exclude_none=True), {"role": "user", "content": "Open it."}]
second = ask(more)
found["kept"] = [second.usage.prompt_tokens_details.cached_tokens, first.usage.total_tokens]
tools = [{"type": "function", "function": TOOL}]
forced = ask(tools=tools, tool_choice={"type": "function", "function": {"name": "open"}}, max_tokens=60)
found["forced"] = [
    [use.function.name, use.function.arguments] for use in forced.choices[0].message.tool_calls or []
]
found["forced text"] = forced.choices[0].message.content
found["sampled"] = [choice.message.content for choice in ask(temperature=1, n=3).choices]
letter = next(each for each in answer.content[4:] if each.isalpha())
found["stopped"] = [ask(stop=[letter]).choices[0].message.content, letter]
items: list = [{"role": "user", "content": "Where is the coin?"}]
whole = client.responses.create(model="any", input=items, max_output_tokens=16, temperature=0)
with client.responses.stream(model="any", input=items, max_output_tokens=16, temperature=0) as stream:
    final = stream.get_final_response() if all(True for _ in stream) else None
found["responses"] = [whole.output_text, final and final.output_text]
try:
    ask([{"role": "user", "content": "x " * 20_000}])
except openai.BadRequestError as error:
    found["too long"] = error.code
given_up = client.chat.completions.create(model="any", messages=HI, max_tokens=400, stream=True)
next(iter(given_up))
given_up.close()
found["afterwards"] = ask().choices[0].message.content
json.dump(found, sys.stdout)
assert os.environ["OPENAI_BASE_URL"]
