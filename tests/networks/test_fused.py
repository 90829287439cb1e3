"""The kernels between two convolutions: what they compute, what they pass over, what they need.

They are interpreted on a CPU, traced by the compiler, and compiled for a GPU that need not be here.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func

from condense.methods import DataDAM
from condense.networks import base
from condense.networks.accelerate import Compiled
from condense.networks.build import build

triton = pytest.importorskip("triton")  # which PyTorch brings along on Linux alone
compiler = pytest.importorskip("triton.backends.compiler")
from condense.networks import fused  # noqa: E402

HOPPER = compiler.GPUTarget("cuda", 90, 32)


def test_the_kernels_are_the_formula() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", Path(__file__).with_name("interpreted.py")],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that Triton may ask for its kind."""
    driver = SimpleNamespace(get_current_target=lambda: HOPPER)
    monkeypatch.setattr(triton.runtime.driver, "_active", driver)


def moved(graph: torch.fx.Graph) -> int:
    """The bytes of maps [N, ch, H, W], of any ch and size, that pass between convolutions."""

    def of(node: object) -> int:
        tensor = node.meta.get("val") if isinstance(node, torch.fx.Node) else None
        return tensor.nbytes if isinstance(tensor, Tensor) and tensor.ndim == 4 else 0

    free = ("placeholder", "view", "slice", "detach", "empty", "getitem", "convolution", "output")
    total = 0
    for node in graph.nodes:
        if "triton_kernel" in node.name:
            total += sum(map(of, node.kwargs["kwargs"].values()))  # what it fills is given, too
        elif not any(word in (node.op, *node.name.split("_")) for word in free):
            total += of(node) + sum(map(of, node.all_input_nodes))
    return total


@pytest.mark.usefixtures("pretended")
def test_compiled_code_passes_over_a_map_as_often_as_stated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(base, "_takes_kernels", lambda x: True)
    graphs: list[torch.fx.Graph] = []

    def keep(module: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        graphs.append(module.graph)
        return make_boxed_func(module.forward)

    network = build("convnet-d1", (3, 32, 32), 10).requires_grad_(False).to("meta")
    network.bodies[0][0].bfloat16()
    images = torch.empty(4, 3, 32, 32, device="meta", dtype=torch.bfloat16, requires_grad=True)
    method = DataDAM(layers=(0,))
    describe = torch.compile(
        lambda images: method.describe(network, images),
        backend=aot_autograd(fw_compiler=keep, bw_compiler=keep),
        fullgraph=True,
    )
    torch.autograd.grad(sum(part.sum() for part in describe(images)), images)
    forward, backward = (moved(graph) / (4 * 128 * 32 * 32 * 2) for graph in graphs)
    assert forward == 1 + 1 / 4 + 2 * 4 * 4 / (128 * 2)  # the shares of attention: 4 float32 each
    assert backward == 1 + 1 / 4 + 1


def registers(kernel: Any, values: int, side: int, folder: Path) -> str:
    """What the assembler says that a program of `kernel` needs, for 128 channels in bfloat16."""
    share, tile, warps = fused._launch(128, side, side, values)
    constants = {"CHANNELS": 128, "HEIGHT": side, "WIDTH": side, "EPS": 1e-5, "POWER": 4.0}
    constants |= {"SHARE": share, "TILE": tile, "x_channel": 1, "p_channel": 1}
    maps = ("x", "pooled", "d_x", "d_pooled")

    def kind(name: str) -> str:
        if name in constants:
            return "constexpr"
        if name.startswith(("x_", "p_")):
            return "i32"
        return "*bf16" if name in maps else "*fp32"

    names = kernel.arg_names
    source = triton.compiler.ASTSource(
        kernel,
        {name: kind(name) for name in names},
        {(names.index(name),): value for name, value in constants.items() if name in names},
        # PyTorch's tensors, and here the strides, are multiples of 16.
        {(place,): [["tt.divisibility", 16]] for place, name in enumerate(names) if "_" in name},
    )
    compiled = triton.compile(source, target=HOPPER, options={"num_warps": warps})
    binary = folder / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    tool = triton.knobs.nvidia.cuobjdump.path
    return subprocess.check_output([tool, "--dump-resource-usage", binary], text=True)


@pytest.mark.slow
@pytest.mark.parametrize("side", [16, 32, 64])
def test_a_program_fits_into_the_registers_of_a_gpu(side: int, tmp_path: Path) -> None:
    for kernel, values in (
        (fused._forward, fused._FORWARD_VALUES),
        (fused._backward, fused._BACKWARD_VALUES),
    ):
        needed = registers(kernel, values, side, tmp_path)
        assert "STACK:0 " in needed
        assert "LOCAL:0 " in needed


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_on_a_gpu_compiled_code_with_the_kernels_is_that_without(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    network = build("convnet", (3, 32, 32), 10).cuda().to(memory_format=torch.channels_last)
    images = torch.randn(6, 3, 32, 32, device="cuda", requires_grad=True)
    method, results = DataDAM(), []
    for kernels in (True, False):
        monkeypatch.setattr(base, "_takes_kernels", lambda x, kernels=kernels: kernels)
        describe = Compiled(lambda images: method.describe(network, images))
        described = describe(images)
        (gradient,) = torch.autograd.grad(sum(part.square().sum() for part in described), images)
        results.append([*described, gradient])
    for with_them, without in zip(*results, strict=True):
        assert (
            with_them - without
        ).norm() < 1e-2 * without.norm()  # convolutions may round to TF32
