"""What two groups become is asked once for each pair of forms, and the ranks of groups stay an order."""

import numpy as np
import pytest

import hybridml as hml
from hybridml.kernels import grouping
from hybridml.kernels.fuser import Fuser, fused
from hybridml.trace.passes import optimize


def graph(depth):
    def step(x, *weights):
        with hml.GradientTape() as tape:
            for w in weights:
                tape.watch(w)
                x = x + hml.nn.gelu(hml.nn.layer_norm(x) @ w)
            loss = hml.mean(x * x)
        return tape.gradient(loss, list(weights))

    rng = np.random.default_rng(0)
    args = [
        hml.asarray(rng.standard_normal(s, np.float32)) for s in [(4, 8), *[(8, 8) for _ in range(depth)]]
    ]
    return optimize(hml.function(step).get_concrete_function(*args).graph)


def checks(monkeypatch, depth):
    """How many merged groups were looked at in both searches."""
    count = 0
    real = Fuser._check

    def check(self, g):
        nonlocal count
        count += 1
        return real(self, g)

    with monkeypatch.context() as m:
        m.setattr(Fuser, "_check", check)
        fused(graph(depth))
    return count


def test_more_layers_ask_hardly_more(monkeypatch):
    few, many = checks(monkeypatch, 8), checks(monkeypatch, 32)
    assert many - few < 4 * 24, (few, many)  # each layer has some forty merges in both searches


def test_merged_groups_would_pass_the_check_themselves():
    fuser = fused(graph(6))
    merged = [g for g in fuser.groups if g.fusible and len(g.nodes) > 1]
    assert merged
    assert all(fuser._check(g) is None for g in merged)


@pytest.mark.parametrize("gap", [1, 2, 7])
def test_ranks_without_room_are_given_anew(monkeypatch, gap):
    """Groups are the same however seldom a group can be put between two others."""
    g = graph(6)
    wanted = [x.nodes for x in fused(g).groups]
    monkeypatch.setattr(grouping, "GAP", gap)
    fuser = fused(g)
    assert [x.nodes for x in fuser.groups] == wanted
    rank = fuser._rank
    assert len(set(rank.values())) == len(rank) == len(fuser.groups)
    assert all(rank[b] < rank[x] for x in rank for b in x.before)
