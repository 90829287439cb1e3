"""What is captured and replayed.

On a CPU with a stand-in that runs the work again, on a GPU with graphs.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from condense.data.augment import make_augment
from condense.networks import graph
from condense.networks.build import build, initialise
from condense.networks.graph import Graphed
from condense.training.protocol import Protocol
from condense.training.train import train

SHAPE, CLASSES = (3, 8, 8), 3


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Captures as on a GPU, warm-up and fixed places of arguments and result included.

    What it returns grows by each.
    """
    captures = []

    def capture(
        work: Callable[[], Tensor], device: torch.device
    ) -> tuple[Callable[[], None], Tensor]:
        captures.append(1)
        for _ in range(3):
            work()
        result = work().clone()
        return lambda: result.copy_(work()), result

    monkeypatch.setattr(graph, "capture", capture)
    monkeypatch.setattr("condense.training.train.has_graphs", lambda device: True)
    return captures


def trained(name: str, protocol: Protocol, device: str = "cpu", **options: Any) -> Tensor:
    """Every weight, statistic and answer of a network trained on 10 images in batches of 4, 4 and
    2.
    """
    draw = torch.Generator().manual_seed(0)
    images, labels = (
        torch.randn(10, *SHAPE, generator=draw),
        torch.randint(CLASSES, (10,), generator=draw),
    )
    network = build(name, SHAPE, CLASSES).to(device)
    initialise(network, 3, 0)
    met: list[Tensor] = []
    train(
        network,
        images.to(device),
        labels.to(device),
        protocol,
        seed=5,
        watch=lambda chosen, logits: met.extend((chosen.clone(), logits.clone())),
        **options,
    )
    assert all(
        parameter.grad is None for parameter in network.parameters()
    )  # they would hold the graph's memory
    return torch.cat(
        [each.flatten().cpu().double() for each in (*network.state_dict().values(), *met)]
    )


@pytest.mark.parametrize("name", ["convnet-d1-w4", "convnet-d1-w4-batch"])
@pytest.mark.parametrize(
    "changes", [{}, {"schedule": "cosine", "nesterov": True}, {"steps": 7}], ids=str
)
def test_training_step_by_step_as_a_graph_changes_no_bit(
    name: str, changes: dict[str, Any], stand_in: list[int]
) -> None:
    protocol = Protocol(epochs=5, batch=4, lr=0.05, **changes)
    captured = trained(name, protocol)
    # A graph for each operation that was drawn, and each size of the batches that it was drawn for.
    steps, dsa = protocol.length(10), make_augment(protocol.augment)
    assert len(stand_in) == len({(dsa.drawn(5, k), k % 3 == 2) for k in range(steps)})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("condense.training.train.has_graphs", lambda device: False)
        assert torch.equal(trained(name, protocol), captured)


def test_what_the_host_augments_is_not_captured(stand_in: list[int]) -> None:
    class OnTheHost:
        def training(self, images: Tensor, seed: int, step: int) -> Tensor:
            assert isinstance(step, int)
            return images

    trained("convnet-d1-w4", Protocol(epochs=2, batch=4), augment=OnTheHost())
    assert not stand_in


def test_arguments_are_fixed_places_and_numbers_become_tensors(stand_in: list[int]) -> None:
    total, seen = torch.zeros(2), []

    def add(values: Tensor, times: Tensor, rate: Tensor) -> Tensor:
        seen.append((values.data_ptr(), times.data_ptr(), rate.data_ptr()))
        assert (times.dtype, rate.dtype) == (torch.int64, torch.float64)
        return total.add_(values * times * rate)

    graphed = Graphed(add, [total])
    given = torch.ones(2)
    assert torch.equal(graphed(given, 2, 0.5), torch.ones(2))
    assert torch.equal(graphed(given * 2, 3, 1.0), torch.full((2,), 7.0))
    assert torch.equal(total, torch.full((2,), 7.0))  # the warm-up left no trace
    assert torch.equal(given, torch.ones(2))
    assert (len(stand_in), len(set(seen))) == (1, 1)


def test_without_graphs_it_goes_on_plainly_and_says_so_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def capture(work: Callable[[], Tensor], device: torch.device) -> None:
        work()
        raise RuntimeError("operation not permitted when stream is capturing\nand more lines")

    monkeypatch.setattr(graph, "capture", capture)
    monkeypatch.setattr(Graphed, "_warned", False)
    for _ in range(2):
        total = torch.zeros(())
        graphed = Graphed(total.add_, [total])
        for number in (1, 2):
            graphed(number)
        assert total == 3  # the attempt left no trace
    told = capsys.readouterr().err
    assert told.count("CUDA graphs do not work here") == told.count("\n") == 1
    assert "operation not permitted when stream is capturing" in told


def test_a_fault_of_the_work_itself_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "capture", lambda work, device: work())
    with pytest.raises(RuntimeError, match="size"):
        Graphed(lambda step: torch.ones(2) @ torch.ones(3), [torch.zeros(())])(0)


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@needs_gpu
@pytest.mark.parametrize("name", ["convnet-d1-w4", "convnet-d1-w4-batch"])
def test_on_a_gpu_captured_training_is_the_plain_one(name: str) -> None:
    protocol = Protocol(epochs=5, batch=4, lr=0.05)
    captured = trained(name, protocol, "cuda")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("condense.training.train.has_graphs", lambda device: False)
        torch.testing.assert_close(captured, trained(name, protocol, "cuda"), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(captured, trained(name, protocol), rtol=1e-2, atol=1e-2)


@needs_gpu
def test_on_a_gpu_a_failed_capture_leaves_the_stream_as_it_was(
    capsys: pytest.CaptureFixture[str],
) -> None:
    total = torch.zeros((), device="cuda")
    graphed = Graphed(
        lambda step: total.add_(float(total) + 1), [total]
    )  # reads a value: no graph can hold that
    stream = torch.cuda.current_stream()
    graphed(0)
    assert torch.cuda.current_stream() == stream
    graphed(1)
    assert float(total) == 3
