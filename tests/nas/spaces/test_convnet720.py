"""The 720 grid: names, numbers, closed-form costs against built networks, samples."""

from collections import Counter
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from condense.errors import UserError
from condense.networks.build import canonical
from nas.spaces import convnet720 as convnet_space
from nas.spaces import space
from nas.spaces.convnet720 import GRID, SIZE, architecture, sample


def test_every_index_and_name_leads_to_the_same_architecture():
    names = [architecture(i).name for i in range(SIZE)]
    assert SIZE == 720
    assert len(set(names)) == 720
    for index, name in enumerate(names):
        assert (
            architecture(name).index
            == architecture(str(index)).index
            == architecture(index).index
            == index
        )
        assert canonical(name, (3, 32, 32)) == name  # the network's name in condense.networks


def test_order_is_documented():
    """Depth slowest, then width, activation, norm, and pool fastest."""
    assert architecture(0).name == "convnet-d1-w32-none-sigmoid-none"
    assert architecture(1).name == "convnet-d1-w32-none-sigmoid-max"
    assert architecture(3).name == "convnet-d1-w32-batch-sigmoid-none"
    assert architecture(15).name == "convnet-d1-w32-none-relu-none"
    assert architecture(45).name == "convnet-d1-w64-none-sigmoid-none"
    assert architecture(719).name == "convnet-d4-w256-group-leakyrelu-avg"


def _counted_flops(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-adds and biases, counted as the network runs (on the meta device, where nothing is
    computed).
    """
    total, network = 0, network.to("meta")

    def count(module: nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal total
        total += output[0].numel() * (module.weight[0].numel() + 1)

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    network(torch.zeros(2, *shape, device="meta"))
    return total


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 16, 24)])
def test_costs_equal_the_built_network(shape):
    for index in sample(16, seed=3, stratified=True):
        convnet = architecture(index)
        network = convnet.build(shape, 7)
        assert convnet.parameters(shape, 7) == sum(p.numel() for p in network.parameters()), (
            convnet.name
        )
        assert convnet.flops(shape, 7) == _counted_flops(network, shape), convnet.name


def test_default_convnet_has_the_published_size():
    assert architecture("convnet-d3-w128-instance-relu-avg").parameters((3, 32, 32), 10) == 320_010


def test_too_small_images_are_refused_as_by_the_network():
    deep = architecture("convnet-d4-w32-none-relu-avg")
    for refuse in (deep.parameters, deep.flops, deep.build):
        with pytest.raises(UserError, match="needs"):
            refuse((3, 8, 8), 10)


@settings(max_examples=30, deadline=None)
@given(count=st.integers(1, SIZE), seed=st.integers(0, 2**40))
def test_stratified_samples_are_balanced_to_within_one(count, seed):
    chosen = sample(count, seed, stratified=True)
    assert len(set(chosen)) == count
    for factor, values in GRID.items():
        seen = Counter(getattr(architecture(i), factor) for i in chosen)
        assert max(seen.values()) - min(seen[value] for value in values) <= 1


def test_stratified_factors_are_not_confounded():
    """48 picks see every pair of values of depth and width, and of activation and pooling."""
    chosen = [architecture(i) for i in sample(48, 5, stratified=True)]
    assert len({(c.depth, c.width) for c in chosen}) == 16
    assert len({(c.activation, c.pool) for c in chosen}) == 9


def test_samples_are_seeded_different_and_nested():
    assert sample() == list(range(720))
    for stratified in (False, True):
        samples = [sample(n, 1, stratified=stratified) for n in (10, 40, 720)]
        assert all(set(small) < set(large) for small, large in pairwise(samples))
        assert samples[2] == list(range(720))
        assert (
            sample(40, 1, stratified=stratified)
            == samples[1]
            != sample(40, 2, stratified=stratified)
        )


def test_bad_input():
    with pytest.raises(UserError, match="did you mean `convnet-d3-w128-instance-relu-avg`"):
        architecture("convnet-d3-w128-instanse-relu-avg")
    for wrong in (720, -1, "720"):
        with pytest.raises(UserError, match="0 to 719"):
            architecture(wrong)
    for wrong in (0, 721):
        with pytest.raises(UserError, match="1 to 720"):
            sample(wrong)
    with pytest.raises(UserError, match="did you mean `convnet720`"):
        space("convnet72")
    assert space("convnet720") is convnet_space
