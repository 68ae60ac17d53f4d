"""A search engine: tantivy (BM25) over a corpus, with the tools `search` and `open`.

It returns what matches, not what is true: a corpus may hold stale and contradictory documents, with dates.
The corpus is read-only, so one `Corpus` serves any number of concurrent episodes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, cast

import tantivy

from agito.errors import InvalidArguments
from agito.types import Call, Fault, Json, ToolSpec
from agito.worlds.component import Answer, Machine, overran, spec, text_of
from agito.worlds.threads import DeadlinePassed, in_thread
from agito.worlds.words import words

SEARCH = spec("search", "Searches the documents; lists the best hits by id, date and title.", ["query"])
OPEN = spec("open", "Shows the document with this id.", ["id"])

_SPACED = "spaced"  # tokenizer for the output of `words`
_MAX_WORDS = 32  # per query
# tantivy's minimum; a corpus that fits is one segment, so ties keep the corpus order
_HEAP_BYTES = 15_000_000


class _Hits(Protocol):
    hits: list[tuple[float, tantivy.DocAddress]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """`id` is one word; `date` is free text."""

    id: str
    title: str
    text: str
    date: str = ""

    @property
    def line(self) -> str:
        """Its line in a list of hits."""
        return " ".join(part for part in (self.id, self.date, self.title) if part)


class Corpus:
    """Documents and their index, in memory. Raises `ValueError` for duplicate ids."""

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents: Mapping[str, Document] = {document.id: document for document in documents}
        if len(self.documents) < len(documents):
            raise ValueError(
                f"{len(documents)} documents have {len(self.documents)} different ids: give each its own"
            )
        self._listed = tuple(documents)
        builder = tantivy.SchemaBuilder()
        builder.add_text_field("text", tokenizer_name=_SPACED)
        builder.add_unsigned_field("number", stored=True)
        self._schema = builder.build()
        self._index = tantivy.Index(self._schema)
        self._index.register_tokenizer(
            _SPACED, tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build()
        )
        self._fill(documents)
        self._searcher = self._index.searcher()

    def _fill(self, documents: Sequence[Document]) -> None:
        num_bytes = sum(len(document.title) + len(document.text) for document in documents)
        writer = self._index.writer(heap_size=_HEAP_BYTES + 16 * num_bytes, num_threads=1)
        for number, document in enumerate(documents):
            row = tantivy.Document()
            row.add_text("text", " ".join(words(f"{document.title} {document.text}")))
            row.add_unsigned("number", number)
            writer.add_document(row)
        writer.commit()
        writer.wait_merging_threads()
        self._index.reload()

    def search(self, query: str, limit: int, *, all_words: bool = False) -> list[Document]:
        """The best matches of any of the query's words (or of all), best first; ties in corpus order."""
        asked = list(dict.fromkeys(words(query)))[:_MAX_WORDS]
        if not asked:
            return []
        occur = tantivy.Occur.Must if all_words else tantivy.Occur.Should
        terms = [(occur, tantivy.Query.term_query(self._schema, "text", word)) for word in asked]
        found = cast("_Hits", self._searcher.search(tantivy.Query.boolean_query(terms), limit))
        numbers = [cast("int", self._searcher.doc(address).get_first("number")) for _, address in found.hits]
        return [self._listed[number] for number in numbers]


@dataclass(slots=True)
class Browsing:
    """What an episode changes: the documents it has read, in order."""

    opened: list[str] = field(default_factory=list[str])


class SearchEngine(Machine):
    """`limit` hits per search. Opened documents are captured under the component's name, one id per line."""

    tools: tuple[ToolSpec, ...] = (SEARCH, OPEN)
    state: Browsing

    def __init__(
        self,
        corpus: Corpus,
        *,
        name: str = "search",
        limit: int = 5,
        all_words: bool = False,
        line: Callable[[Document], str] = lambda document: document.line,
    ) -> None:
        super().__init__(Browsing())
        self.name, self._corpus, self._limit, self._all_words, self._line = (
            name,
            corpus,
            limit,
            all_words,
            line,
        )

    async def call(self, call: Call, *, timeout_s: float) -> Answer:
        if call.tool != "search":
            return self.step(call)
        began = time.monotonic()
        try:
            return await in_thread(lambda: self.step(call), timeout_s=timeout_s)
        except DeadlinePassed:
            return overran(began)

    def step(self, call: Call) -> Answer:
        if call.tool == "search":
            hits = self._corpus.search(text_of(call, "query"), self._limit, all_words=self._all_words)
            return Answer(text="\n".join(map(self._line, hits)) or "nothing found")
        wanted = _id_of(call.arguments.get("id"))
        document = self._corpus.documents.get(wanted)
        if document is None:
            return Answer(text=f"no document {wanted[:40]}", fault=Fault.POLICY)
        self.state.opened.append(wanted)
        return Answer(text=f"{self._line(document)}\n{document.text}")

    async def capture(self) -> Mapping[str, bytes]:
        return {self.name: "\n".join(self.state.opened).encode()}


def _id_of(value: Json) -> str:
    if not isinstance(value, str):
        raise InvalidArguments("open needs a string `id`")
    return value.strip()
