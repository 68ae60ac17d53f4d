"""The desk in realistic words: people, articles, addresses, JSON answers, and customers who speak in
sentences.

Only the surface is another one. Books, users and scripts stay terse: calls and answers are put into the other
words on their way, so that tasks, solutions and verdicts are the same by construction.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import replace

from agito.envs.desk.case import Case
from agito.envs.desk.people import ADDRESS, ARTICLE, CODE, PERSON, email_of
from agito.envs.desk.shop import OPERATIONS
from agito.protocols import Script, ScriptFactory
from agito.types import Call, Event, Json, ToolSpec
from agito.worlds.api import Operation, Problem, Service
from agito.worlds.api.service import Arguments
from agito.worlds.component import Answer
from agito.worlds.users import Mind, User

_STATES = {"open": "processing", "sent": "shipped", "back": "returned", "off": "cancelled"}
_RANKS = {"plain": "standard", "gold": "gold"}
_TOPICS = {
    "place": ("where", "place", "address"),
    "item": ("which", "item", "article", "product", "order", "what"),
}
_CONFIRMING = ("sure", "certain", "confirm")
_ASKED = {
    "which": "Which item is it?",
    "where": "What address should it go to?",
    "sure": "Are you sure?",
}
_YES, _NO = "Yes, that is right. Please go ahead.", "No, sorry, I meant another one: the "
_SAID = {
    "yes": _YES,
    "what": "I am not sure what you are asking me.",
    "bye": "I have no more time for this. Goodbye.",
}
_EMAIL = {terse: email_of(person) for terse, person in PERSON.items()}
_SAYS = {
    "name": ("email", "string", "The customer's e-mail address."),
    "page": ("page", "integer", "The page of the list, from 1 on."),
    "order": ("order_id", "string", "The order's ID, such as LAMP-42."),
    "place": ("address", "string", "The new delivery address: street and town."),
    "text": ("message", "string", "What to say to the customer."),
}
_TOOLS = {
    "ask": ("message_customer", "Send the customer a message and return the reply.", ["text"]),
    "orders": (
        "list_orders",
        "List a customer's orders, three a page; `more` says whether there is another page.",
        ["name", "page"],
    ),
    "look": (
        "get_order",
        "Show one order: its status (processing, shipped, returned or cancelled), the days since it got that "
        "status, and the customer's rank.",
        ["order"],
    ),
    "refund": ("refund_order", "Take a shipped order back and return the money.", ["order"]),
    "cancel": ("cancel_order", "Cancel an order that is processing or shipped.", ["order"]),
    "move": (
        "change_address",
        "Send an order that is processing or shipped to another address.",
        ["order", "place"],
    ),
    "refuse": (
        "decline_request",
        "Record that the policy forbids what the customer wants for this order.",
        ["order"],
    ),
}
_WISHES = {
    "refund": "wants to return an order and get the money back",
    "cancel": "wants to cancel an order",
    "move": "wants an order to go to another address",
}
_PROSE = (
    "You work at the service desk of an online shop. The customer {person} ({email}) {wish}{item}. Customers "
    "leave things out, sometimes name the wrong item, and may change their mind. Ask with "
    "`message_customer`, one question at a time: which item it is, to what address it should go, and, before "
    "you do anything, whether they are sure; ask that again until they say yes.\n\n"
    "The shop's policy: an order is refunded only if its status is `shipped` and has been for at most "
    "{limit} days; customers of rank `gold` get refunds at any age. An order is cancelled, or its address "
    "changed, only while its status is `processing`. If the policy forbids what the customer wants, call "
    "`decline_request` for that order and leave it as it is.\n\n"
    "Do exactly this one thing and change nothing else; then call `submit` with `done`. A tool can time out, "
    "and what timed out may have been done all the same."
)


def _tool(name: str, description: str, parameters: list[str]) -> ToolSpec:
    said = [_SAYS[each] for each in parameters]
    properties: Json = {name: {"type": kind, "description": about} for name, kind, about in said}
    return ToolSpec(
        name=name,
        description=description,
        parameters={"type": "object", "properties": properties, "required": [name for name, _, _ in said]},
    )


TOOLS = {terse: _tool(*said) for terse, said in _TOOLS.items()}


def prose(made: Case) -> str:
    return _PROSE.format(
        person=PERSON[made.customer],
        email=_EMAIL[made.customer],
        wish=_WISHES[made.family],
        item=f": the {ARTICLE[made.said[0]]}" if made.said else "",
        limit=made.limit,
    )


def _one_word(item: str) -> str:
    return ARTICLE[item].replace(" ", "-")


_IN_PROMPT = _EMAIL | {item: _one_word(item) for item in ARTICLE}
_FROM_PROMPT = {said: terse for terse, said in _IN_PROMPT.items()}


def prompt(terse: str) -> str:
    """The compact prompt in these words."""
    return " ".join(_IN_PROMPT.get(word, word) for word in terse.split())


def terse_prompt(prompt: str) -> str:
    return " ".join(_FROM_PROMPT.get(word, word) for word in prompt.split())


# Each kind of argument: into these words, and back. What nobody is called becomes what no terse word is.
def _email(terse: str) -> str:
    return _EMAIL.get(terse, terse)


def _order(terse: str) -> str:
    """`gor42` is LAMP-42."""
    item = terse.rstrip("0123456789")
    return f"{CODE[item]}-{terse.removeprefix(item)}" if item in CODE else terse


def _address(terse: str) -> str:
    return ADDRESS.get(terse, terse)


def _question(terse: str) -> str:
    return _ASKED.get(terse, terse)


_SPOKEN: Mapping[str, Callable[[str], str]] = {
    "name": _email,
    "order": _order,
    "place": _address,
    "text": _question,
}
_CUSTOMER_OF = {said: terse for terse, said in _EMAIL.items()}
_ITEM_OF_CODE = {code: item for item, code in CODE.items()}
_PLACE_OF = {said.lower(): terse for terse, said in ADDRESS.items()}


def _terse_customer(said: str) -> str:
    return _CUSTOMER_OF.get(said.strip().lower(), f"?{said}")


def _terse_order(said: str) -> str:
    code, _, number = said.strip().partition("-")
    return f"{_ITEM_OF_CODE[code]}{number}" if code in _ITEM_OF_CODE else f"?{said}"


def _terse_place(said: str) -> str:
    return _PLACE_OF.get(said.strip(" .").lower(), f"?{said}")


_MEANT: Mapping[str, Callable[[str], str]] = {
    "name": _terse_customer,
    "order": _terse_order,
    "place": _terse_place,
}


def _operation(terse: Operation) -> Operation:
    """The same, called and answering in these words."""
    name = terse.tool.name
    parameters = {_SAYS[each][0]: each for each in _TOOLS[name][2]}

    def run(connection: sqlite3.Connection, arguments: Arguments, caller: str) -> Json:
        meant: dict[str, Json] = {}
        for said, value in arguments.items():
            kind = parameters[said]
            meant[kind] = _MEANT[kind](value) if isinstance(value, str) else value
        try:
            body = terse.run(connection, meant, caller)
        except Problem as problem:
            words = (_STATES.get(word, word) for word in str(problem).split(" "))
            raise Problem(problem.status, " ".join(words)) from None
        return _answer(body, arguments)

    return replace(terse, tool=TOOLS[name], run=run)


def _answer(body: Json, arguments: Arguments) -> Json:
    if isinstance(body, dict):
        listed = body["orders"]
        assert isinstance(listed, list)
        orders: list[Json] = [
            {"order_id": _order(str(each)), "item": ARTICLE[str(each).rstrip("0123456789")]}
            for each in listed
        ]
        return {"orders": orders, "more": body["more"]}
    if body == "ok":
        return {"result": "ok"}
    state, days, rank = str(body).split()
    status: dict[str, Json] = {
        "status": _STATES[state],
        "days_since": int(days),
        "customer_rank": _RANKS[rank],
    }
    return {"order_id": arguments["order_id"], **status}


REALISTIC_OPERATIONS = tuple(map(_operation, OPERATIONS))


def shop(image: bytes) -> Service:
    return Service(REALISTIC_OPERATIONS, image, name="shop")


class Talker(User):
    """A user who answers in sentences."""

    def __init__(self, mind: Mind) -> None:
        super().__init__(mind, _TOPICS, confirming=_CONFIRMING, tool=TOOLS["ask"])

    def step(self, call: Call) -> Answer:
        answer = super().step(call)
        return replace(answer, text=_sentence(answer.text))


def _sentence(terse: str) -> str:
    if terse in _SAID:
        return _SAID[terse]
    if terse.startswith("no "):
        return f"{_NO}{ARTICLE[terse.removeprefix('no ')]}."
    return f"The {ARTICLE[terse]}, please." if terse in ARTICLE else f"To {ADDRESS[terse]}, please."


def in_words(factory: ScriptFactory) -> ScriptFactory:
    """A terse script that acts in the realistic desk; it still sees only what the world returns."""

    def script() -> Script:
        inner = factory()
        try:
            call = next(inner)
            while True:
                event = yield _said(call)
                call = inner.send(replace(event, text=_heard(call.tool, event)))
        except StopIteration:
            return

    return script


def _said(call: Call) -> Call:
    if call.tool not in TOOLS:
        return call
    arguments = {
        _SAYS[kind][0]: _SPOKEN[kind](value) if isinstance(value, str) else value
        for kind, value in call.arguments.items()
    }
    return replace(call, tool=TOOLS[call.tool].name, arguments=arguments)


def _heard(tool: str, event: Event) -> str:
    """What an answer says, in terse words."""
    text = event.text
    if event.fault is not None or tool not in TOOLS:
        return text
    if tool == "ask":
        return _understood(text)
    if tool not in ("orders", "look"):
        return "ok"
    body: dict[str, Json] = json.loads(text)
    if tool == "look":
        found = [
            _STATES_OF[str(body["status"])],
            str(body["days_since"]),
            _RANKS_OF[str(body["customer_rank"])],
        ]
        return " ".join(found)
    ids = [_terse_order(found) for found in re.findall(r'"order_id": "([^"]+)"', text)]
    return "\n".join([*ids, *(["more"] if body["more"] else [])])


_STATES_OF = {said: terse for terse, said in _STATES.items()}
_RANKS_OF = {said: terse for terse, said in _RANKS.items()}
_NAMED = {said: terse for terse, said in (ARTICLE | ADDRESS).items()}


def _understood(text: str) -> str:
    for terse, said in _SAID.items():
        if text == said:
            return terse
    named = next((terse for said, terse in _NAMED.items() if said in text), "what")
    return f"no {named}" if text.startswith(_NO) else named
