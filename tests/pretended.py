"""A GPU that is pretended: the code that the compiler generates for it shows what is launched."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from functorch.compile import make_boxed_func
from torch import Tensor
from torch._dynamo.backends.common import aot_autograd
from torch._functorch import config as autograd_config
from torch._guards import detect_fake_mode
from torch._inductor import config
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime.hints import DeviceProperties
from torch._inductor.virtualized import V
from torch.fx import GraphModule
from torch.fx.passes.fake_tensor_prop import FakeTensorProp

from condense.randomness import derive

H200 = {
    "multi_processor_count": 132,
    "regs_per_multiprocessor": 65536,
    "max_threads_per_multi_processor": 2048,
    "max_threads_per_block": 1024,
    "warp_size": 32,
    "major": 9,
}
GPU = torch.device("cuda", 0)
_LAUNCH = re.compile(r"\b(?:triton_\w+\.run|extern_kernels\.\w+|torch\.ops\.aten\.[\w.]+)\(")


@contextmanager
def h200() -> Iterator[None]:
    """The compiler believes that there is an H200 here."""
    from triton.backends.compiler import GPUTarget
    from triton.runtime.driver import driver

    hints = DeviceProperties(type="cuda", index=0, cc=90, **H200)
    properties = SimpleNamespace(name="NVIDIA H200", **H200)
    triton = SimpleNamespace(get_current_target=lambda: GPUTarget("cuda", 90, 32))
    with ExitStack() as stack:
        for owner, name, value in (
            (DeviceProperties, "create", lambda device: hints),
            (torch.cuda, "get_device_properties", lambda device=None: properties),
            (torch.cuda, "get_device_capability", lambda device=None: (9, 0)),
            (torch.cuda, "current_device", lambda: 0),
            (driver, "_active", triton),
        ):
            stack.enter_context(patch.object(owner, name, value))
        stack.enter_context(patch("torch._inductor.scheduler.has_triton", lambda: True))
        yield


def kernels(run: Callable[..., Any], *arguments: Tensor, draws: bool = False) -> list[str]:
    """The code of `run`, compiled as by `Compiled`; and that of its gradient, if it has one.

    It is traced, and carried out, on the CPU. What was traced is then moved to the pretended GPU.
    """
    codes = []
    torch.compiler.assume_constant_result(derive)

    def generate(traced: Any, inputs: list[Tensor]) -> Callable[..., Any]:
        codes.append(_code(deepcopy(traced), inputs))
        return make_boxed_func(traced.forward)

    backend = aot_autograd(
        fw_compiler=generate, bw_compiler=generate, decompositions=select_decomp_table()
    )
    with (
        h200(),
        config.patch(constant_and_index_propagation=not draws),
        autograd_config.patch(force_non_lazy_backward_lowering=True),
    ):
        torch.compile(run, backend=backend, dynamic=False, fullgraph=True)(*arguments)
    return codes


def launches(codes: list[str]) -> int:
    """How many kernels such code launches."""
    return sum(len(_LAUNCH.findall(code[code.index("def call(") :])) for code in codes)


def _code(traced: GraphModule, inputs: list[Tensor]) -> str:
    """The code of the kernels of what was traced, and of the function that launches them."""
    for node in traced.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = node.kwargs | {"device": GPU}
    mode = detect_fake_mode(inputs)
    assert mode
    with mode:
        there = [
            torch.empty_strided(one.shape, one.stride(), dtype=one.dtype, device=GPU)
            for one in inputs
        ]
    FakeTensorProp(traced, mode).propagate_dont_convert_inputs(*there)
    with V.set_fake_mode(mode):
        graph = GraphLowering(traced, example_inputs=there)
        with V.set_graph_handler(graph), V.set_debug_handler(DebugContext()):
            graph.run(*there)
            return graph.codegen()[0].value
