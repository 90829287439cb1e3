"""NATS-Bench's size space: its order, its costs, and its network against a naive one."""

from itertools import product

import pytest
import torch
from naive import Weights
from torch.nn import functional as F

from condense.errors import UserError
from condense.networks.build import initialise
from nas.spaces.natssize import SIZE, Sizes, architecture, sample

NAMES = ("8:8:8:8:8", "64:64:64:64:64", "8:16:24:32:40", "48:24:24:8:64")


def test_order_is_that_of_the_benchmark():
    """Its script counts the last layer fastest."""
    names = [":".join(map(str, one)) for one in product(range(8, 65, 8), repeat=5)]
    assert len(names) == SIZE == 32_768
    assert [architecture(index).name for index in range(SIZE)] == names
    for index in (0, 1, 9, 4711, SIZE - 1):
        assert architecture(names[index]).index == index
        assert architecture(str(index)) == architecture(index)


@pytest.mark.parametrize(("shape", "classes"), [((3, 32, 32), 10), ((1, 8, 12), 7)])
@pytest.mark.parametrize("name", NAMES)
def test_costs_equal_the_built_network(name, shape, classes):
    sizes, flops = architecture(name), 0
    network = sizes.build(shape, classes)

    def count(module, _, output):
        nonlocal flops
        biases = 0 if module.bias is None else module.bias.numel()
        flops += output[0].numel() * module.weight[0].numel() + biases

    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    network(torch.zeros(2, *shape))
    assert sizes.parameters(shape, classes) == sum(p.numel() for p in network.parameters())
    assert sizes.flops(shape, classes) == flops


def _naive(sizes: Sizes, network, x: torch.Tensor) -> torch.Tensor:
    """The definition, with functions, and the weights in the order in which they stand."""
    weights = Weights(network)
    x = weights.bn(F.conv2d(x, weights.take("weight"), padding=1))
    for layer, out in enumerate(sizes.channels):
        if layer % 2:
            x = weights.reduction(x)
        else:  # |c~0|+|c~0|c~1|+|skip_connect~0|c~1|c~2|
            first = weights.relu_conv_bn(x)
            second = weights.relu_conv_bn(x)
            second = second + weights.relu_conv_bn(first)
            third = weights.relu_conv_bn(first)
            third = third + weights.relu_conv_bn(second)
            # A skip between unequal widths is a convolution without a ReLU.
            skip = x if x.shape[1] == out else weights.bn(F.conv2d(x, weights.take("weight")))
            x = third + skip
        assert x.shape[1] == out
    x = F.relu(weights.bn(x)).mean((2, 3))
    return x @ weights.take("weight").T + weights.take("bias")


@pytest.mark.parametrize("name", NAMES)
def test_network_equals_the_definition(name):
    sizes = architecture(name)
    network = sizes.build((3, 16, 16), 5)
    initialise(network, 7, sizes.index)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # numbers that show when they are misplaced
            tensors = module.weight.data, module.bias.data, module.running_mean, module.running_var
            for k, tensor in enumerate(tensors):
                tensor.copy_(torch.linspace(0.5 + 0.1 * k, 1.5, len(tensor)))
    network.double().eval()
    x = torch.linspace(-9, 9, 2 * 3 * 16 * 16, dtype=torch.float64).sin().view(2, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(network(x), _naive(sizes, network, x))
        maps, embedding = network.observe(x)
    assert [one.shape[1] for one in maps] == list(sizes.channels[::2])
    torch.testing.assert_close(network.classifier(embedding), network(x))


def test_bad_keys_and_shapes():
    for wrong, message in (
        (-1, "0 to 32767"),
        (SIZE, "0 to 32767"),
        ("8:8:8:8", "give five of 8, 16"),
        ("8:8:8:8:9", "unknown sizes `8:8:8:8:9`"),
        ("resnet18", "such as 8:16:32:48:64"),
    ):
        with pytest.raises(UserError, match=message):
            architecture(wrong)
    with pytest.raises(UserError, match="multiples of 4"):
        architecture(0).build((3, 30, 32), 10)
    with pytest.raises(UserError, match="1 to 32768"):
        sample(0)
    assert set(sample(20, 3)) < set(sample(100, 3))
