"""In which order things change their names, so that no two are ever called the same."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from typing import TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V", bound=Hashable)


def renames(
    present: Mapping[K, V], wanted: Mapping[K, V], aside: Callable[[K, V], V], taken: Collection[V] = ()
) -> Iterator[tuple[K, V, V]]:
    """What to rename from what to what, in order, so that each of `present` that is wanted is called as wanted and no two
    are ever called the same. What is in the way, of these or of the names `taken`, goes `aside`: for good, where it is not
    wanted itself."""
    names = dict(present)
    for key, name in present.items():
        if key not in wanted and (name in wanted.values() or name in taken):
            names[key] = aside(key, name)
            yield key, name, names[key]
    left = [k for k in wanted if k in present and present[k] != wanted[k]]
    while left:
        free = next((k for k in left if wanted[k] not in names.values()), None)
        key = left[0] if free is None else free  # all in a circle (a is renamed to b, b to a): one steps aside
        new = aside(key, present[key]) if free is None else wanted[key]
        yield key, names[key], new
        names[key] = new
        if free is not None:
            left.remove(key)
