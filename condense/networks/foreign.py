"""Any torch module as a `Network`: forward hooks show the maps of its stages and its embedding.

The hooks are kept from PyTorch's compiler, which is imported to say so. That takes a second or
more, so this module is imported only where such a network is built.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from condense.errors import UserError, reason
from condense.networks.base import LAYERS, NORMS, Network, Shape


class Foreign(Network):
    """Any module from images [N, ch, H, W] to logits [N, classes], as a `Network`.

    The map of a stage is the last output [N, ch_l, H_l, W_l] of any layer at a size, from the
    largest size to the smallest above 1 x 1. The embedding is what the last linear layer takes, if
    the logits are what it gives. Dropout is switched off, since a run must follow from its seed.

    >>> module = nn.Sequential(
    ...     nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3), nn.Flatten(), nn.Linear(72, 5)
    ... )
    >>> network = Foreign(module, "mine", (3, 12, 12), 5)
    >>> [tuple(stage.shape) for stage in network.maps(torch.zeros(2, 3, 12, 12))]
    [(2, 4, 10, 10), (2, 4, 5, 5), (2, 8, 3, 3)]
    >>> network.embedding_size, network.classifier
    (72, Linear(in_features=72, out_features=5, bias=True))
    """

    def __init__(self, module: nn.Module, name: str, shape: Shape, num_classes: int) -> None:
        super().__init__()
        self.module, self._name = module, name
        if not any(parameter.ndim > 1 for parameter in module.parameters()):
            raise UserError(f"network `{name}` has no weights that could be trained")
        _switch_off_dropout(module)
        outputs = _outputs(name, module, shape, num_classes)
        sizes = {
            output.shape[2:]: path
            for path, output in outputs
            if output.ndim == 4 and _is_map(output.shape[2], output.shape[3], shape)
        }
        self._stages = tuple(sizes.values())
        last = outputs[-1][1]
        heads = [
            path
            for path, output in outputs
            if output is last and isinstance(module.get_submodule(path), nn.Linear)
        ]
        self._head = heads[-1] if heads else None
        self.embedding_size = self.classifier.in_features if self._head is not None else 0
        self._kept = [
            (path, key)
            for path, one in module.named_modules()
            if not isinstance(one, (*NORMS, *LAYERS))
            for key, value in one.named_parameters(recurse=False)
            if value.ndim < 2
        ]
        for number, value in enumerate(self._own()):
            self.register_buffer(f"_first_{number}", value.detach().clone(), persistent=False)

    @property
    def classifier(self) -> Any:  # type: ignore[override]
        """The linear layer that gives the logits. Raises `UserError` where there is none."""
        if self._head is None:
            raise UserError(
                f"network `{self._name}` does not end in a linear layer, so that it has no "
                "embedding, which this takes: choose another network, or a method that matches "
                "gradients"
            )
        return self.module.get_submodule(self._head)

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x)

    def observe(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        seen = self._seen(x)
        return self._maps(seen), self._embedding(seen)

    def maps(self, x: Tensor) -> list[Tensor]:
        return self._maps(self._seen(x))

    def embed(self, x: Tensor) -> Tensor:
        return self._embedding(self._seen(x))

    def restore(self) -> None:
        """Give parameters that no rule draws the values that the network was made with.

        These are vectors of layers other than convolutions, linear layers and normalisations: the
        slopes of a PReLU, the scales of a LayerScale.
        """
        for number, value in enumerate(self._own()):
            value.copy_(self.get_buffer(f"_first_{number}"))

    def _own(self) -> list[nn.Parameter]:
        return [getattr(self.module.get_submodule(path), key) for path, key in self._kept]

    @torch.compiler.disable
    def _seen(self, x: Tensor) -> dict[str, Tensor]:
        """What the stages give and the last layer takes, for images [N, ch, H, W]."""
        seen: dict[str, Tensor] = {}

        def keep(path: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
            seen[path] = output

        def keep_input(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            seen[""] = inputs[0]

        get = self.module.get_submodule
        hooks = [get(path).register_forward_hook(partial(keep, path)) for path in self._stages]
        if self._head is not None:
            hooks.append(get(self._head).register_forward_pre_hook(keep_input))
        try:
            self.module(x)
        finally:
            for hook in hooks:
                hook.remove()
        return seen

    def _maps(self, seen: dict[str, Tensor]) -> list[Tensor]:
        if len(self._stages) < 2:
            raise UserError(
                f"network `{self._name}` shows maps [N, ch, H, W] of {len(self._stages)} size, and "
                "this method compares the layers of two or more: choose method `dm`, or another "
                "network"
            )
        return [seen[path] for path in self._stages]

    def _embedding(self, seen: dict[str, Tensor]) -> Tensor:
        return seen[""].flatten(1) if self._head is not None else self.classifier


def _switch_off_dropout(module: nn.Module) -> None:
    """Set the probability of every dropout to 0, and that of leaving out whole branches."""
    for one in module.modules():
        dropout = isinstance(one, nn.modules.dropout._DropoutNd)
        if dropout or type(one).__name__ == "StochasticDepth":
            one.p = 0.0  # type: ignore[assignment]
        if isinstance(getattr(one, "drop_prob", None), float):  # timm's DropPath
            one.drop_prob = 0.0  # type: ignore[assignment]


def _is_map(height: int, width: int, shape: Shape) -> bool:
    """Whether an output of that size has the form of the images; one of attention has not."""
    _, tall, wide = shape
    return height * width > 1 and abs(height * wide - width * tall) <= max(tall, wide)


def _outputs(
    name: str, module: nn.Module, shape: Shape, num_classes: int
) -> list[tuple[str, Tensor]]:
    """What each layer gives for two images, in the order of their ends; last the logits, by ``.

    Raises `UserError` for a network that fails, gives no logits, or draws random numbers.
    """
    outputs: list[tuple[str, Tensor]] = []

    def keep(path: str, module: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            outputs.append((path, output))

    hooks = [one.register_forward_hook(partial(keep, path)) for path, one in module.named_modules()]
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad(), torch.device("cpu"):
            images = torch.linspace(-1, 1, 2 * shape[0] * shape[1] * shape[2]).view(2, *shape)
            module.train()
            first, second = module(images), module(images)
    except Exception as error:
        text = reason(error)
        raise UserError(f"network `{name}` fails for images {shape} ({text})") from error
    finally:
        for hook in hooks:
            hook.remove()
    if not isinstance(first, Tensor) or first.shape != (2, num_classes):
        given = list(first.shape) if isinstance(first, Tensor) else type(first).__name__
        raise UserError(
            f"network `{name}` gives {given} for two images: it must be [2, {num_classes}]"
        )
    if not torch.equal(first, second):
        raise UserError(
            f"network `{name}` gives two answers for the same images in training: a run must "
            "follow from its seed, so make it without dropout"
        )
    return outputs[: len(outputs) // 2]
