"""NAS-Bench-201 against the benchmark's own table, and its network against a naive one."""

import csv
import gzip
import hashlib
from collections import defaultdict
from pathlib import Path

import pytest
import torch
from naive import Weights
from torch.nn import functional as F

from condense.errors import UserError
from condense.networks.build import initialise
from nas.spaces.nasbench201 import SIZE, Cell, architecture, parse, sample

TABLE = Path(__file__).parents[4] / "shared" / "data" / "nasbench201.csv.gz"


@pytest.fixture(scope="module")
def table():
    if not TABLE.exists():
        pytest.skip("the NAS-Bench-201 table is not at hand")
    with gzip.open(TABLE, "rt") as file:
        return list(csv.DictReader(file))


def test_order_is_the_official_one_without_the_table():
    names = [architecture(i).name for i in range(SIZE)]
    assert len(set(names)) == SIZE == 15_625
    digest = hashlib.sha256("\n".join(names).encode()).hexdigest()
    assert (
        digest == "83abc799e45cf34e9d2163654668ab998b9a54d01c39e72ca1f71f2cdf356d84"
    )  # of the table's column `arch`


def test_order_and_strings_are_those_of_the_table(table):
    for index, row in enumerate(table):
        assert architecture(index).name == row["arch"]
        assert parse(row["arch"]).index == index


def test_isomorphism_classes_are_those_of_the_table(table):
    assert [architecture(i).isomorph for i in range(SIZE)] == [
        int(row["first_isomorph"]) for row in table
    ]


def test_there_are_6466_classes_and_isomorphs_compute_the_same():
    assert len({architecture(i).isomorph for i in range(SIZE)}) == 6_466
    straight = parse("|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|avg_pool_3x3~2|")
    detour = parse("|nor_conv_3x3~0|+|none~0|none~1|+|none~0|avg_pool_3x3~1|none~2|")
    assert straight.isomorph != detour.isomorph  # `#+x` is not `x` in the authors' count
    twin = parse("|none~0|+|nor_conv_3x3~0|none~1|+|none~0|none~1|avg_pool_3x3~2|")
    assert straight.isomorph == twin.isomorph


def test_costs_are_those_of_the_table_or_of_an_isomorph(table):
    """Parameters of 15,475 cells.

    The other 150 carry an isomorph's count, in parameters and in FLOPs alike.
    """
    by_class = defaultdict(set)
    for index in range(SIZE):
        cell = architecture(index)
        by_class[cell.isomorph].add((cell.parameters(), cell.flops()))

    def equal(costs: tuple[int, int], row: dict[str, str]) -> bool:
        # The table's FLOPs are rounded from single precision: off by up to ten.
        return (
            costs[0] == round(float(row["params_M"]) * 1e6)
            and abs(costs[1] - float(row["flops_M"]) * 1e6) < 15
        )

    exact = [
        equal((architecture(i).parameters(), architecture(i).flops()), row)
        for i, row in enumerate(table)
    ]
    assert sum(exact) == 15_475
    for index in (i for i, same in enumerate(exact) if not same):
        assert any(equal(costs, table[index]) for costs in by_class[architecture(index).isomorph])


@pytest.mark.parametrize(
    ("shape", "classes", "cells", "width"), [((3, 32, 32), 10, 5, 16), ((1, 8, 12), 7, 1, 4)]
)
def test_costs_equal_the_built_network(shape, classes, cells, width):
    for index in [6111, *sample(4, seed=1)]:
        cell, flops = architecture(index), 0
        network = cell.build(shape, classes, cells, width)

        def count(module, _, output):
            nonlocal flops
            flops += output[0].numel() * module.weight[0].numel() + (
                0 if module.bias is None else module.bias.numel()
            )

        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.register_forward_hook(count)
        # A convolution of nothing runs too: its weights and multiply-adds count, in the benchmark
        # as here.
        network(torch.zeros(2, *shape))
        assert cell.parameters(shape, classes, cells, width) == sum(
            p.numel() for p in network.parameters()
        )
        assert cell.flops(shape, classes, cells, width) == flops


def _naive(cell: Cell, network, x: torch.Tensor, cells: int) -> torch.Tensor:
    """The definition, written with functions and the weights in the order in which they stand in
    the network.
    """
    weights = Weights(network)
    x = weights.bn(F.conv2d(x, weights.take("weight"), padding=1))
    for stage in range(3):
        if stage:
            x = weights.reduction(x)
        for _ in range(cells):
            nodes = [x]
            edges = iter(cell.operations)
            for node in (1, 2, 3):
                total = torch.zeros_like(x)
                for source in range(node):
                    operation = next(edges)
                    if operation == "skip_connect":
                        total = total + nodes[source]
                    elif operation.startswith("nor_conv"):
                        total = total + weights.relu_conv_bn(nodes[source])
                    elif operation == "avg_pool_3x3":
                        ones = F.avg_pool2d(torch.ones_like(x), 3, 1, 1)
                        total = (
                            total + F.avg_pool2d(nodes[source], 3, 1, 1) / ones
                        )  # the mean of what is inside
                nodes.append(total)
            x = nodes[3]
    x = F.relu(weights.bn(x)).mean((2, 3))
    return x @ weights.take("weight").T + weights.take("bias")


@pytest.mark.parametrize("index", [0, 6111, 1234, 9])
def test_network_equals_the_definition(index):
    cell = architecture(index)
    network = cell.build((3, 16, 16), 5, cells=2, width=4)
    initialise(network, 7, index)
    for module in network.modules():
        if isinstance(
            module, torch.nn.BatchNorm2d
        ):  # statistics and affine numbers that show when they are misplaced
            for k, tensor in enumerate(
                (module.weight.data, module.bias.data, module.running_mean, module.running_var)
            ):
                assert tensor is not None
                tensor.copy_(torch.linspace(0.5 + 0.1 * k, 1.5, len(tensor)))
    network.double().eval()
    x = (
        torch.linspace(-1, 1, 2 * 3 * 16 * 16, dtype=torch.float64)
        .sin()
        .mul(9)
        .sin()
        .view(2, 3, 16, 16)
    )
    with torch.no_grad():
        torch.testing.assert_close(network(x), _naive(cell, network, x, cells=2))
        maps, embedding = network.observe(x)
    assert [tuple(m.shape) for m in maps] == [(2, 4, 16, 16), (2, 8, 8, 8), (2, 16, 4, 4)]
    assert embedding.shape == (2, network.embedding_size)
    torch.testing.assert_close(network.classifier(embedding), network(x))


def test_building_is_deterministic_and_draws_no_global_numbers():
    state = torch.random.get_rng_state()
    first, second = (architecture(6111).build(cells=1, width=4).state_dict() for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_unknown_strings_name_the_nearest_valid_one():
    valid = architecture(6111).name
    for wrong in (
        valid.replace("nor_conv_1x1", "nor_conv_1x"),
        valid.replace("~2", "~1"),
        valid.replace("|+|", "+"),
        valid[1:-1],
    ):
        with pytest.raises(UserError) as error:
            architecture(wrong)
        assert valid in error.value.args[0]
        assert "\n" not in error.value.args[0]
    for nonsense in ("", "resnet18", "|none~0|", valid + valid):
        with pytest.raises(UserError, match="nearest valid"):
            architecture(nonsense)


def test_bad_numbers_and_shapes():
    for wrong in (-1, SIZE, str(SIZE)):
        with pytest.raises(UserError, match="0 to 15624"):
            architecture(wrong)
    with pytest.raises(UserError, match="multiples of 4"):
        architecture(0).build((3, 30, 32), 10)
    with pytest.raises(UserError, match="1 to 15625"):
        sample(0)
    assert architecture("6111") == architecture(6111)


def test_samples_are_seeded_and_different():
    assert sample(100, 3) == sample(100, 3) != sample(100, 4)
    assert len(set(sample(100, 3))) == 100
    assert set(sample(20, 3)) < set(sample(100, 3))
    assert sample() == list(range(SIZE))
