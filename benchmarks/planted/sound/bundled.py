"""Agito's own in-memory environments, and the fake one of the tests."""

from agito.envs.decisions import DecisionsEnvironment
from agito.envs.desk import DeskEnvironment
from agito.envs.research import ResearchEnvironment
from agito.envs.web import TextWebEnvironment
from agito.testing import FakeEnvironment


class Decisions(DecisionsEnvironment):
    """Ten small worlds."""

    KIND = "sound"


class Desk(DeskEnvironment):
    """An API over a database, with a user."""

    KIND = "sound"


class Research(ResearchEnvironment):
    """A search engine over documents, with a memory."""

    KIND = "sound"


class WebText(TextWebEnvironment):
    """Pages, read as text."""

    KIND = "sound"


class Coin(FakeEnvironment):
    """A coin in a box."""

    KIND = "sound"
