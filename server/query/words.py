"""The words of a search → a filter: each must stand in the searchable fields."""

from __future__ import annotations

import re

from server.errors import Invalid
from server.query.filters import Filter, Filters
from server.schema.expressions import searched as fields_of
from server.schema.model import Resource

WORDS_MOST = 20
"""Words and phrases of one search."""
LENGTH_MOST = 1000
"""Characters of one search."""

_WORD = re.compile(r'"([^"]*)"?|([^\s"]+)')


def searched(filters: Filters, resource: Resource, query: str) -> Filter:
    """The filter of what a search finds: every word of `query`, and every phrase in quotes, anywhere in the searchable fields,
    whether in capital letters or small ones. Raises Invalid of the field `query`."""
    if len(query) > LENGTH_MOST:
        raise Invalid.field("query", f"has {len(query)} characters; {LENGTH_MOST} are the most", "TOO_LONG")
    if "\0" in query:
        raise Invalid.field("query", "holds the character U+0000, which no stored text has", "INVALID_QUERY")
    if not fields_of(resource):
        raise Invalid.field("query", f"{resource.message} has no field whose words are searched", "NOTHING_SEARCHABLE")
    found = [phrase or word for phrase, word in _WORD.findall(query) if phrase.strip() or word]
    if len(found) > WORDS_MOST:
        raise Invalid.field("query", f"has more than {WORDS_MOST} words", "TOO_MANY_WORDS")
    return filters.parse(" ".join(map(_quoted, found)))


def _quoted(text: str) -> str:
    escaped = re.sub(r'[\\"*]', lambda found: f"\\{found[0]}", text)
    return f'"{escaped}"'
