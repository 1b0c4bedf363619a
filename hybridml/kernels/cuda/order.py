"""Nodes after those they read of, where a pass has given one node the work of several."""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Sequence

from hybridml.trace.graph import Node, has_effects


def in_order(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """The nodes, each after those it reads of, else in the order in which they were; effects keep theirs."""
    number = {v: i for i, n in enumerate(nodes) for v in n.outputs}
    before: list[set[int]] = [{number[v] for v in n.values if v in number} for n in nodes]
    effects = [i for i, n in enumerate(nodes) if has_effects(n)]
    for a, b in itertools.pairwise(effects):
        before[b].add(a)
    after: list[list[int]] = [[] for _ in nodes]
    for i, earlier in enumerate(before):
        for j in earlier:
            after[j].append(i)
    waits = [len(b) for b in before]
    ready = [i for i, w in enumerate(waits) if not w]
    heapq.heapify(ready)
    found = []
    while ready:
        i = heapq.heappop(ready)
        found.append(nodes[i])
        for j in after[i]:
            waits[j] -= 1
            if not waits[j]:
                heapq.heappush(ready, j)
    assert len(found) == len(nodes), "a product waits for what waits for it"
    return tuple(found)
