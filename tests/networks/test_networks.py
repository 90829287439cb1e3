"""Networks by name: what the names mean, what the networks compute, how they are initialised."""

import itertools
from copy import deepcopy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from condense.errors import UserError
from condense.networks import build as networks
from condense.networks.base import InstanceNorm
from condense.networks.build import build, canonical, initialise
from condense.networks.zoo import ZOO

DEPTHS, WIDTHS = (1, 2, 3, 4), (32, 64, 128, 256)
NORMS = ("none", "batch", "layer", "instance", "group")
ACTIVATIONS = ("sigmoid", "relu", "leakyrelu")
POOLS = ("none", "max", "avg")
IMAGE = (3, 32, 32)


def num_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def images(shape: tuple[int, int, int], count: int = 2) -> Tensor:
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(7))


def conv(inputs: int, outputs: int, kernel: int, bias: bool = True) -> int:
    return outputs * (inputs * kernel**2 + bias)


def linear(inputs: int, outputs: int) -> int:
    return outputs * (inputs + 1)


class TestNames:
    @pytest.mark.parametrize(
        ("name", "shape", "full"),
        [
            ("convnet", (3, 32, 32), "convnet-d3-w128-instance-relu-avg"),
            ("convnet", (1, 28, 28), "convnet-d3-w128-instance-relu-avg"),
            ("convnet", (3, 64, 64), "convnet-d4-w128-instance-relu-avg"),
            ("convnet", (3, 128, 128), "convnet-d5-w128-instance-relu-avg"),
            ("convnet", (1, 8, 8), "convnet-d2-w128-instance-relu-avg"),
            ("convnet", (1, 16, 16), "convnet-d2-w128-instance-relu-avg"),
            ("convnet-batch", (3, 32, 32), "convnet-d3-w128-batch-relu-avg"),
            ("convnet-max-w64-leakyrelu", (3, 32, 32), "convnet-d3-w64-instance-leakyrelu-max"),
            ("convnet-nopool-nonorm-d7", (3, 32, 32), "convnet-d7-w128-none-relu-none"),
            ("convnet-none-sigmoid", (3, 32, 32), "convnet-d3-w128-none-sigmoid-avg"),
            ("convnet-sigmoid-none", (3, 32, 32), "convnet-d3-w128-instance-sigmoid-none"),
            ("resnet18", (3, 32, 32), "resnet18-bn"),
            ("vit-tiny", (3, 32, 32), "vit-tiny"),
        ],
    )
    def test_full_name(self, name: str, shape: tuple[int, int, int], full: str) -> None:
        assert canonical(name, shape) == full
        assert canonical(full, shape) == full

    @given(
        st.tuples(
            st.sampled_from(DEPTHS),
            st.sampled_from(WIDTHS),
            *map(st.sampled_from, (NORMS, ACTIVATIONS, POOLS)),
        ),
        st.permutations(range(5)),
        st.sets(st.integers(0, 4)),
    )
    def test_any_parts_in_any_order(
        self, values: tuple[int, int, str, str, str], order: list[int], left_out: set[int]
    ) -> None:
        depth, width, norm, activation, pool = values
        parts = [
            f"d{depth}",
            f"w{width}",
            norm.replace("none", "nonorm"),
            activation,
            pool.replace("none", "nopool"),
        ]
        defaults = ["d3", "w128", "instance", "relu", "avg"]
        short = "-".join(["convnet", *(parts[i] for i in order if i not in left_out)])
        full = [
            defaults[i] if i in left_out else str(part)
            for i, part in enumerate([f"d{depth}", f"w{width}", norm, activation, pool])
        ]
        assert canonical(short, IMAGE) == "-".join(["convnet", *full])

    @pytest.mark.parametrize(
        ("name", "shape", "words"),
        [
            ("resnet19-bn", IMAGE, "did you mean `resnet18-bn`"),
            ("convnett", IMAGE, "unknown network `convnett`: did you mean `convnet`"),
            ("convnet-d3-reul", IMAGE, "`reul`: did you mean `relu`"),
            ("convnet-d0", IMAGE, "`d0`"),
            ("convnet-", IMAGE, "unknown part"),
            ("convnet-relu-sigmoid", IMAGE, "activation twice"),
            ("convnet-d3-none", IMAGE, "write `nonorm` or `nopool`"),
            ("convnet-w30-group", IMAGE, "multiple of 4"),
            ("convnet-d6", IMAGE, "needs 64 px"),
            ("convnet-d4", (1, 8, 8), "needs 16 px"),
            ("lenet", (1, 8, 8), "at least 16 px"),
            ("resnet18-in", (1, 8, 8), "at least 9 px"),
            ("vit-tiny", (3, 30, 30), "multiple of 4"),
        ],
    )
    def test_bad_name_is_one_line(self, name: str, shape: tuple[int, int, int], words: str) -> None:
        with pytest.raises(UserError) as error:
            build(name, shape, 10)
        assert words in str(error.value)
        assert "\n" not in str(error.value)

    def test_every_listed_name_builds(self) -> None:
        assert set(ZOO) < set(networks.NETWORKS)
        patterns = {"timm/NAME", "torchvision/NAME", "FILE.py:FUNCTION"}
        with torch.device("meta"):
            for name in networks.NETWORKS.keys() - patterns:
                assert build(name, IMAGE, 10)(torch.zeros(2, *IMAGE)).shape == (2, 10)


class TestConvNet:
    def test_all_of_the_grid_in_closed_form(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            networks, "initialise", lambda *_: None
        )  # weights do not matter here, and take time
        grid = itertools.product(DEPTHS, WIDTHS, NORMS, ACTIVATIONS, POOLS)
        names = set()
        for depth, width, norm, activation, pool in grid:
            name = f"convnet-d{depth}-w{width}-{norm}-{activation}-{pool}"
            with torch.device("meta"):
                network = build(name, IMAGE, 10)
            sides = [32 if pool == "none" else 32 >> block for block in range(depth)]
            affine = sum(2 * width * {"none": 0, "layer": side**2}.get(norm, 1) for side in sides)
            embedding = width * (sides[-1] if pool == "none" else sides[-1] // 2) ** 2
            convolutions = conv(3, width, 3) + (depth - 1) * conv(width, width, 3)
            assert num_parameters(network) == convolutions + affine + linear(embedding, 10), name
            assert network.embedding_size == embedding, name
            names.add(canonical(name, IMAGE))
        assert len(names) == 720

    @pytest.mark.parametrize(
        ("shape", "count"),
        [
            ((3, 32, 32), 320_010),
            ((3, 64, 64), 467_850),
            ((3, 128, 128), 615_690),
            ((1, 28, 28), 317_706),
        ],
    )
    def test_default_size(self, shape: tuple[int, int, int], count: int) -> None:
        network = build("convnet", shape, 10)
        assert num_parameters(network) == count
        assert network.embedding_size == 2048

    @pytest.mark.parametrize("pool", POOLS)
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @pytest.mark.parametrize("norm", NORMS)
    def test_maps_by_the_definition(self, norm: str, activation: str, pool: str) -> None:
        network = build(f"convnet-d2-w8-{norm}-{activation}-{pool}", (3, 8, 12), 5).double()
        with torch.no_grad():
            for parameter in network.parameters():  # norms beside 1 and 0
                parameter += torch.linspace(
                    -0.3, 0.3, parameter.numel(), dtype=torch.float64
                ).view_as(parameter)
        x = images((3, 8, 12)).double()
        maps, embedding = network.observe(x)
        weights = iter(network.parameters())
        for block_map in maps:
            x = definition(x, next(weights), next(weights))
            if norm != "none":
                scale, shift = (
                    affine if norm == "layer" else affine[:, None, None]
                    for affine in (next(weights), next(weights))
                )
                x = normalised(x, norm) * scale + shift
            x = {
                "sigmoid": lambda x: 1 / (1 + (-x).exp()),
                "relu": lambda x: x * (x > 0),
                "leakyrelu": lambda x: x * (0.01 + 0.99 * (x > 0)),
            }[activation](x)
            torch.testing.assert_close(block_map, x)
            corners = torch.stack([x[..., i::2, j::2] for i in (0, 1) for j in (0, 1)])
            x = {"none": x, "max": corners.amax(0), "avg": corners.mean(0)}[pool]
        torch.testing.assert_close(embedding, x.flatten(1))
        torch.testing.assert_close(
            network(images((3, 8, 12)).double()), x.flatten(1) @ next(weights).T + next(weights)
        )

    def test_one_channel_28_px_become_32(self) -> None:
        assert [
            tuple(m.shape) for m in build("convnet-w8", (1, 28, 28), 10).maps(images((1, 28, 28)))
        ] == [
            (2, 8, 32, 32),
            (2, 8, 16, 16),
            (2, 8, 8, 8),
        ]
        assert build("convnet-w8", (3, 28, 28), 10).maps(images((3, 28, 28)))[0].shape == (
            2,
            8,
            28,
            28,
        )


def definition(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """3x3 convolution with zero padding, as a sum over the nine offsets."""
    height, width = x.shape[2:]
    padded = torch.zeros(*x.shape[:2], height + 2, width + 2, dtype=x.dtype)
    padded[:, :, 1:-1, 1:-1] = x
    offsets = itertools.product(range(3), repeat=2)
    return bias[:, None, None] + sum(
        torch.einsum(
            "nchw,oc->nohw", padded[:, :, i : i + height, j : j + width], weight[:, :, i, j]
        )
        for i, j in offsets
    )


def normalised(x: Tensor, norm: str) -> Tensor:
    """Each group of numbers to mean 0 and variance 1."""
    out = torch.empty_like(x)
    n, channels = x.shape[:2]
    whole = slice(None)
    groups = {
        "batch": [(whole, c) for c in range(channels)],
        "layer": [(i, whole) for i in range(n)],
        "instance": [(i, c) for i in range(n) for c in range(channels)],
        "group": [
            (i, slice(c, c + channels // 4))
            for i in range(n)
            for c in range(0, channels, channels // 4)
        ],
    }
    for index in groups[norm]:
        part = x[index]
        out[index] = (part - part.mean()) / (part.var(correction=0) + 1e-5).sqrt()
    return out


class TestZoo:
    def test_parameter_counts(self) -> None:
        stages = [(64, 64), (64, 128), (128, 256), (256, 512)]
        resnet = conv(3, 64, 3, False) + 2 * 64 + linear(512, 10)
        for inputs, width in stages:
            resnet += (
                conv(inputs, width, 3, False) + 3 * conv(width, width, 3, False) + 4 * 2 * width
            )
            resnet += 0 if inputs == width else conv(inputs, width, 1, False) + 2 * width
        assert resnet == 11_173_962
        widths = [3, 64, 128, 256, 256, 512, 512, 512, 512]
        vgg = sum(conv(*pair, 3) for pair in itertools.pairwise(widths)) + linear(512, 10)
        alexnet = (
            conv(3, 128, 5)
            + conv(128, 192, 5)
            + conv(192, 256, 3)
            + conv(256, 192, 3)
            + conv(192, 192, 3)
            + linear(192 * 16, 10)
        )
        block = (
            2 * 2 * 192
            + linear(192, 3 * 192)
            + linear(192, 192)
            + linear(192, 768)
            + linear(768, 192)
        )
        expected = {
            "alexnet": alexnet,
            "vgg11": vgg,
            "vgg11-bn": vgg + 2 * sum(widths[1:]),
            "vgg11-in": vgg + 2 * sum(widths[1:]),
            "resnet18": resnet,
            "resnet18-bn": resnet,
            "resnet18-in": resnet,
            "lenet": 62_006,  # LeCun's 61,706 and the 2 x 150 weights of two more input channels
            "mlp": linear(3072, 128) + linear(128, 128) + linear(128, 10),
            "vit-tiny": conv(3, 192, 4) + 192 + 65 * 192 + 12 * block + 2 * 192 + linear(192, 10),
        }
        with torch.device("meta"):
            assert {name: num_parameters(build(name, IMAGE, 10)) for name in expected} == expected

    @pytest.mark.parametrize(
        ("name", "side"),
        [
            (name, side)
            for name in ["convnet", *ZOO]
            for side in (8, 28, 32, 64, 128)
            if name == "convnet" or side >= ZOO[name].smallest
        ],
    )
    @pytest.mark.parametrize("channels", [1, 3])
    def test_sizes(self, name: str, side: int, channels: int) -> None:
        shape = (channels, side, side)
        with torch.device("meta"):
            network = build(name, shape, 7)
            maps, embedding = network.observe(torch.zeros(2, *shape))
            assert network(torch.zeros(2, *shape)).shape == (2, 7)
        assert len(maps) >= 2
        assert all(m.ndim == 4 and len(m) == 2 and min(m.shape) > 0 for m in maps)
        assert embedding.shape == (2, network.embedding_size)

    @pytest.mark.parametrize("name", ["convnet", *ZOO])
    def test_forward_and_gradients(self, name: str) -> None:
        network = build(name, IMAGE, 10)
        x = images(IMAGE).requires_grad_()
        maps, embedding = network.observe(x)
        torch.testing.assert_close(network(x), network.classifier(embedding))
        torch.testing.assert_close(network.embed(x), embedding)
        torch.testing.assert_close(network.maps(x), maps)
        network(x).square().sum().backward()
        assert x.grad is not None
        assert x.grad.abs().sum() > 0
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())
        (from_maps,) = torch.autograd.grad(sum(m.square().mean() for m in maps), x)
        assert from_maps.abs().sum() > 0

    @pytest.mark.parametrize("name", ["convnet-w8", "lenet", "vit-tiny"])
    def test_second_derivative(self, name: str) -> None:
        """What gradient matching needs.

        A gradient of the weights' gradient, here against a finite difference.
        """
        network = build(name, (1, 16, 16), 3).double()
        x = images((1, 16, 16)).double()
        direction = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).view_as(x)

        def size(x: Tensor) -> Tensor:
            loss = nn.functional.cross_entropy(network(x), torch.tensor([0, 2]))
            gradients = torch.autograd.grad(loss, list(network.parameters()), create_graph=True)
            return sum((g.square().sum() for g in gradients), torch.zeros(()))

        moved = x.clone().requires_grad_()
        (exact,) = torch.autograd.grad(size(moved), moved)
        step = 1e-6
        with torch.enable_grad():
            difference = (size(x + step * direction) - size(x - step * direction)).item() / (
                2 * step
            )
        assert (exact * direction).sum().item() == pytest.approx(difference, rel=1e-4)

    def test_maps_are_those_of_the_layers(self) -> None:
        shapes = {
            name: [tuple(m.shape[1:]) for m in build(name, IMAGE, 10).maps(images(IMAGE))]
            for name in ("lenet", "mlp", "resnet18-in")
        }
        assert shapes == {
            "lenet": [(6, 28, 28), (16, 10, 10)],
            "mlp": [(128, 1, 1)] * 2,
            "resnet18-in": [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)],
        }

    def test_vit_maps_keep_the_grid(self) -> None:
        """Before any attention, a patch of the image moves only its own place of the map."""
        network = build("vit-tiny", IMAGE, 10)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if name.startswith("blocks.") and ".project." in name:
                    parameter.zero_()
        x = images(IMAGE, 1)
        changed = x.clone()
        changed[:, :, 8:12, 20:24] += 1
        moved = (network.maps(changed)[0] != network.maps(x)[0]).any(1)[0]
        assert moved.nonzero().tolist() == [[2, 5]]


class TestInstanceNorm:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("shape", [(3, 6, 8, 8), (1, 6, 1, 1), (2, 6, 3, 5)])
    def test_equals_group_norm(
        self, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, ...], dtype: torch.dtype
    ) -> None:
        ours, reference = InstanceNorm(6).to(dtype), nn.GroupNorm(6, 6).to(dtype)
        with torch.no_grad():
            for module in (ours, reference):
                module.weight.copy_(torch.linspace(0.5, 2, 6))
                module.bias.copy_(torch.linspace(-1, 1, 6))
        generator = torch.Generator().manual_seed(7)
        x = torch.randn(shape, generator=generator, dtype=dtype) * 3 + 10
        upstream = torch.randn(shape, generator=generator, dtype=dtype)

        def results(module: nn.Module) -> list[Tensor]:
            leaf = x.clone().requires_grad_()
            out = module(leaf)
            return [out, *torch.autograd.grad(out, [leaf, *module.parameters()], upstream)]

        eager = results(ours)
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        compiled = results(ours)
        monkeypatch.undo()
        if shape == (1, 6, 1, 1):  # GroupNorm itself refuses it
            shift = ours.bias.detach().expand(1, 6)[..., None, None]
            torch.testing.assert_close(
                eager[0].detach(), shift, rtol=0, atol=1e-3
            )  # float32: 10 times rsqrt(eps), less the same
            torch.testing.assert_close(compiled[0].detach(), shift, rtol=0, atol=1e-3)
            assert all(gradient.isfinite().all() for gradient in eager + compiled)
        else:
            expected = results(reference)
            torch.testing.assert_close(eager, expected)
            torch.testing.assert_close(compiled, expected, rtol=1e-4, atol=1e-4)

    def test_compiled_network(self) -> None:
        network = build("convnet-w8", (3, 16, 16), 10)
        compiled = torch.compile(network, backend="eager", fullgraph=True)
        torch.testing.assert_close(
            compiled(images((3, 16, 16))), network(images((3, 16, 16))), rtol=1e-4, atol=1e-4
        )

    def test_keeps_half_precision_and_its_moments(self) -> None:
        """At a mean of 100, moments in bfloat16 would be lost.

        The result may differ by one rounding.
        """
        x = (images((4, 8, 8)) + 100).bfloat16()
        exact = nn.functional.group_norm(x.double(), 4)
        out = InstanceNorm(4)._formula(x)
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.double(), exact, rtol=2**-7, atol=1e-3)


class TestInitialise:
    @pytest.mark.parametrize("name", ["convnet-d4-layer", "convnet-group", *ZOO])
    def test_covers_everything_and_stays_in_bounds(self, name: str) -> None:
        network = build(name, IMAGE, 10)
        with torch.no_grad():
            for tensor in itertools.chain(network.parameters(), network.buffers()):
                tensor.fill_(float("nan") if tensor.is_floating_point() else 99)
        initialise(network, 3, 4)
        for key, tensor in network.state_dict().items():
            assert tensor.isfinite().all(), key
            if key.endswith("running_mean") or key.endswith("num_batches_tracked"):
                assert (tensor == 0).all()
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                for parameter in module.parameters(recurse=False):
                    assert parameter.abs().max() <= module.weight[0].numel() ** -0.5
            elif isinstance(module, nn.GroupNorm | nn.LayerNorm | nn.BatchNorm2d):
                assert (module.weight == 1).all()
                assert (module.bias == 0).all()

    def test_uniform_as_pytorch(self) -> None:
        network = build("convnet-d2", IMAGE, 10)
        initialise(network, 5, 6)
        for module in (m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)):
            pytorch = deepcopy(module)
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                pytorch.reset_parameters()
            for ours, theirs in zip(module.parameters(), pytorch.parameters(), strict=True):
                assert ours.abs().max() <= theirs.abs().max() * 1.1
                assert (
                    stats.ks_2samp(
                        ours.detach().flatten().numpy(), theirs.detach().flatten().numpy()
                    ).pvalue
                    > 1e-3
                )
            bound = module.weight[0].numel() ** -0.5
            assert (
                stats.kstest(
                    module.weight.detach().flatten().numpy(), stats.uniform(-bound, 2 * bound).cdf
                ).pvalue
                > 1e-3
            )

    def test_tokens_are_normal(self) -> None:
        network = build("vit-tiny", IMAGE, 10)
        initialise(network, 5, 6)
        for parameter in (network.positions, network.class_token):
            assert (
                stats.kstest(parameter.detach().flatten().numpy(), stats.norm(0, 0.02).cdf).pvalue
                > 1e-3
            )

    def test_layers_are_independent(self) -> None:
        network = build("convnet-d4", IMAGE, 10)
        weights = [
            m.weight.detach().flatten()[:100_000]
            for m in network.modules()
            if isinstance(m, nn.Conv2d)
        ][1:]
        correlation = torch.corrcoef(torch.stack(weights)).fill_diagonal_(0)
        assert correlation.abs().max() < 5 / 100_000**0.5

    def test_depends_on_seed_and_step_alone(self) -> None:
        network, other = (build("convnet-w16-batch", IMAGE, 10) for _ in range(2))
        other.to(memory_format=torch.channels_last)

        def drawn(network: nn.Module, seed: int, step: int | Tensor) -> Tensor:
            initialise(network, seed, step)
            return torch.cat([p.detach().flatten() for p in network.parameters()])

        reference = drawn(network, 1, 2)
        network(images(IMAGE))  # moves the running statistics
        drawn(other, 5, 5)
        torch.manual_seed(123)
        assert torch.equal(drawn(other, 1, torch.tensor(2)), reference)
        assert torch.equal(drawn(network, 1, 2), reference)
        for seed, step in [(2, 2), (1, 3)]:
            different = drawn(network, seed, step) != reference
            assert different.float().mean() > 0.9  # all but the norms, 96 of 7,000

    def test_leaves_global_randomness_alone(self) -> None:
        before = torch.random.get_rng_state()
        initialise(build("vit-tiny", IMAGE, 10), 0, 1)
        initialise(build("resnet18", IMAGE, 10), 0, 1)
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_blocks_of_rows_draw_one_sequence(self, monkeypatch: pytest.MonkeyPatch) -> None:
        network = build("lenet", IMAGE, 10)
        expected = [p.clone() for p in network.parameters()]
        monkeypatch.setattr(networks, "_BLOCK", 7)
        initialise(network, 0, 0)
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), expected, strict=True))

    def test_gradients_still_flow(self) -> None:
        network = build("mlp", (1, 4, 4), 3)
        initialise(network, 0, 9)
        network(images((1, 4, 4))).sum().backward()
        assert all(
            p.requires_grad and p.is_leaf and p.grad is not None for p in network.parameters()
        )


@pytest.mark.parametrize("part", ["d999999999999", "d101", "w8193", "d" + "9" * 5000])
def test_a_network_that_fits_no_machine_is_refused_at_once(part: str) -> None:
    with pytest.raises(UserError, match=r"is too large: its (depth|width) must be at most"):
        build(f"convnet-{part}-nopool", (3, 32, 32), 10)
