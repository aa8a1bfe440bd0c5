"""How sequences are taken apart for engines, and put together again."""

from __future__ import annotations

import sys
from itertools import chain, islice
from typing import Any

__all__ = ["Map", "RoundRobinMap", "dists", "is_array", "mappable"]


def is_array(obj: Any) -> bool:
    """Whether obj is a NumPy array."""
    numpy: Any = sys.modules.get("numpy")
    return numpy is not None and isinstance(obj, numpy.ndarray)


def mappable(obj: Any) -> bool:
    """Whether obj can be scattered and gathered: a list, a tuple or an array."""
    return isinstance(obj, (tuple, list)) or is_array(obj)


class Map:
    """Contiguous parts, whose lengths differ by one at most."""

    def getPartition(self, seq: Any, p: int, q: int, n: int | None = None) -> Any:
        """Part p of q of a sequence whose length is n."""
        n = len(seq) if n is None else n
        if not 0 <= p < q:
            raise ValueError(f"must have 0 <= p < q, but have p={p},q={q}")
        size, longer = divmod(n, q)
        low = p * size + min(p, longer)
        high = low + size + (p < longer)
        try:
            return seq[low:high]
        except TypeError:
            return list(islice(seq, low, high))

    def joinPartitions(self, listOfPartitions: list[Any]) -> Any:
        """The inverse: a list, or an array when the parts are arrays."""
        return self.concatenate(listOfPartitions)

    def concatenate(self, listOfPartitions: list[Any]) -> Any:
        """The parts one after the other."""
        first = listOfPartitions[0]
        if is_array(first):
            import numpy

            return numpy.concatenate(listOfPartitions)
        return list(chain.from_iterable(listOfPartitions)) if isinstance(first, (list, tuple)) else listOfPartitions


class RoundRobinMap(Map):
    """Each q-th item."""

    def getPartition(self, seq: Any, p: int, q: int, n: int | None = None) -> Any:
        """Part p of q of a sequence whose length is n."""
        return seq[p:len(seq) if n is None else n:q]

    def joinPartitions(self, listOfPartitions: list[Any]) -> Any:
        """The inverse."""
        first = listOfPartitions[0]
        if is_array(first):
            return self.flatten_array(listOfPartitions)
        return self.flatten_list(listOfPartitions) if isinstance(first, (list, tuple)) else listOfPartitions

    def flatten_array(self, listOfPartitions: list[Any]) -> Any:
        """Arrays woven together along their first axis."""
        import numpy

        first = listOfPartitions[0]
        whole = numpy.empty((sum(part.shape[0] for part in listOfPartitions), *first.shape[1:]), dtype=numpy.result_type(*listOfPartitions))
        for i, part in enumerate(listOfPartitions):
            whole[i::len(listOfPartitions)] = part
        return whole

    def flatten_list(self, listOfPartitions: list[Any]) -> list[Any]:
        """Lists woven together."""
        return [part[i] for i in range(len(listOfPartitions[0])) for part in listOfPartitions if i < len(part)]


dists: dict[str, type[Map]] = {"b": Map, "r": RoundRobinMap}
