"""The search engine: what it finds, in which order, how fast, and that episodes share it without
interference.
"""

from __future__ import annotations

import random
import statistics
import time

import pytest

from agito.types import AttemptId, Call, Fault
from agito.worlds.memory import Memory
from agito.worlds.search import Corpus, Document, SearchEngine
from agito.worlds.words import words

DOCUMENTS = [
    Document(
        id="a", date="1998", title="The bridge at Orl", text="The bridge at Orl was built by Tamsin Vey."
    ),
    Document(
        id="b", date="2004", title="The bridge at Orl", text="The bridge at Orl was built by Ruark Dole."
    ),
    Document(id="c", date="2001", title="Tamsin Vey", text="Tamsin Vey lives in Carro and builds boats."),
    Document(id="d", date="2001", title="Carro", text="A town on the coast; nothing is known of it."),
]


def engine() -> SearchEngine:
    return SearchEngine(Corpus(DOCUMENTS), limit=3)


def ask(tool: str, argument: str) -> Call:
    return Call(tool=tool, arguments={"query" if tool == "search" else "id": argument})


def test_documents_that_contradict_one_another_are_both_found_and_show_their_dates() -> None:
    hits = engine().step(ask("search", "bridge Orl")).text.splitlines()
    assert hits == ["a 1998 The bridge at Orl", "b 2004 The bridge at Orl"]


def test_the_document_with_more_of_the_words_comes_first_whatever_their_case() -> None:
    assert engine().step(ask("search", "TAMSIN vey lives")).text.splitlines()[0] == "c 2001 Tamsin Vey"


def test_asked_for_all_words_it_finds_only_documents_with_all_of_them() -> None:
    corpus = Corpus(DOCUMENTS)
    assert [found.id for found in corpus.search("carro tamsin", 5)] == ["c", "d", "a"]
    assert [found.id for found in corpus.search("carro tamsin", 5, all_words=True)] == ["c"]


def test_an_opened_document_shows_its_text_and_an_unknown_id_is_the_policys_fault() -> None:
    searching = engine()
    assert "Ruark Dole" in searching.step(ask("open", "b")).text
    missing = searching.step(ask("open", "z"))
    assert missing.fault is Fault.POLICY and "no document z" in missing.text
    assert searching.step(ask("search", "zebra")).text == "nothing found"


@pytest.mark.parametrize(
    "query", ["", "   ", '"', "a AND (b OR", "text:*", "[1 TO", "\x00", "x " * 5000, "NOT", "^~/.*/"]
)
def test_no_query_breaks_the_engine(query: str) -> None:
    assert engine().step(ask("search", query)).fault is None


async def test_forks_read_the_same_corpus_but_keep_their_own_reading() -> None:
    searching = engine()
    searching.step(ask("open", "a"))
    fork = await searching.fork(await searching.snapshot())
    assert await fork.digest() == await searching.digest()
    await fork.call(ask("open", "c"), timeout_s=1.0)
    assert await searching.capture() == {"search": b"a"}
    assert await fork.capture() == {"search": b"a\nc"}


def test_an_id_that_stands_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="2 documents have 1 different ids"):
        Corpus([DOCUMENTS[0], DOCUMENTS[0]])


def test_a_query_over_twenty_thousand_documents_takes_less_than_a_millisecond() -> None:
    rng = random.Random(0)
    words = [f"w{number}" for number in range(5000)]
    corpus = Corpus(
        [
            Document(id=str(number), title=f"t{number}", text=" ".join(rng.choices(words, k=40)))
            for number in range(20_000)
        ]
    )
    queries = [" ".join(rng.choices(words, k=3)) for _ in range(300)]
    times: list[float] = []
    for query in queries:
        started = time.perf_counter()
        hits = corpus.search(query, 5)
        times.append(time.perf_counter() - started)
        assert len(hits) == 5 and any(word in hits[0].text for word in query.split())
    assert statistics.median(times) < 1e-3


WORDS = """max_tokens __init__ _private snake_case_name foo.bar v1.2 don't x-ray C++ self.__class__
e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855 aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
हिन्दी தமிழ் বাংলা ภาษาไทย 日本語 한국어 ΟΔΟΣ Straße İstanbul ILIK ılık naïve cafe\u0301 שָׁלוֹם مُحَمَّد ١٢٣ 10² ﬁnd Ёлка می‌خواهم 🎉x"""  # noqa: E501


@pytest.mark.parametrize("word", WORDS.split())
async def test_a_word_is_found_when_it_is_asked_for_as_it_stands(word: str) -> None:
    corpus = Corpus(
        [
            Document(id="d", title="t", text=f"before {word} after"),
            Document(id="e", title="u", text="other thing"),
        ]
    )
    assert (
        [found.id for found in corpus.search(word, 5)]
        == ["d"]
        == [found.id for found in corpus.search(word, 5, all_words=True)]
    )
    memory = Memory(AttemptId(group=0, slot=0))
    for note in (f"before {word} after", "other thing"):
        await memory.call(Call(tool="remember", arguments={"note": note}), timeout_s=5.0)
    answer = await memory.call(Call(tool="recall", arguments={"query": word}), timeout_s=5.0)
    assert answer.text == f"1: before {word} after"


def test_a_word_longer_than_any_index_takes_is_found_too() -> None:
    corpus = Corpus([Document(id="d", title="t", text="b" * 70_000)])
    assert [found.id for found in corpus.search("B" * 70_000, 5)] == ["d"]


ALIKE = """max_tokens=max tokens;pane pid=pane_pid;ΟΔΟΣ=οδος;Straße=STRASSE;İstanbul=istanbul;ILIK=ılık;naïve café=naive cafe
שָׁלוֹם=שלום;مُحَمَّد=محمد;これは日本語です=日本語;ภาษาไทยง่าย=ไทย;ﬁnd=find;ＡＢＣ=abc"""  # noqa: E501


@pytest.mark.parametrize(
    ("stands", "asked"), [pair.split("=") for pair in ALIKE.replace("\n", ";").split(";")]
)
def test_case_accents_points_and_spaces_make_no_difference(stands: str, asked: str) -> None:
    corpus = Corpus([Document(id="d", title="t", text=stands), Document(id="e", title="u", text="other")])
    assert [found.id for found in corpus.search(asked, 5, all_words=True)] == ["d"]


@pytest.mark.parametrize(
    ("stands", "asked"), [("हिन्दी", "हिन"), ("мой", "мои"), ("ели", "ёлка"), ("がく", "かく")]
)
def test_marks_that_make_another_letter_do_make_a_difference(stands: str, asked: str) -> None:
    assert words(stands) != words(asked)
