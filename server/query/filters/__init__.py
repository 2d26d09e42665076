"""Filters: which resources a List is to show, as AIP-160 has it.

The way of a filter: `syntax` (text → syntax), `checking` (names and values by the resource's descriptor → `tree`), and from
there `sql` (a condition on rows) and `predicate` (a test of one message), which give the same answers. `paths` and `constants`
know names and values; docs/data.md has the language by example.
"""

from server.query.filters.filters import Filter, Filters, Usage

__all__ = ["Filter", "Filters", "Usage"]
