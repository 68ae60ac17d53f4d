"""One small vocabulary for all renderers."""

from __future__ import annotations

import pytest

from agito.render import Vocabulary, learn

TEXTS = [
    "find kev",
    "grep -rh kev *",
    "submit kev=mak",
    "sed -i s/^kev=.*/kev=mak/ d/x",
    "repair",
    "ls -p",
    "old kev=rud\nkev=mak\n",
    "13",
]


@pytest.fixture(scope="package")
def vocabulary() -> Vocabulary:
    return learn(TEXTS * 20, size=340)
