"""Networks that are not ours: of timm, of torchvision, and functions that a user writes.

    timm/NAME, torchvision/NAME     built without trained weights
    MODULE:FUNCTION                 a function of the image shape and the number of classes, in a
    FILE.py:FUNCTION                module or a file of the user

`Foreign` makes a `Network` of any module. It looks at what the layers give by forward hooks. A
function is only called in a program that was given it (`adopt`, `adopt_named`): a name that stands
in a file is never imported.
"""

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from condense.errors import UserError, unknown
from condense.networks.base import Network, Shape

Factory = Callable[[Shape, int], nn.Module]
"""Makes a network from the shape of an image, (channels, height, width), and the classes."""

ABOUT = {
    "timm/NAME": "any image classifier of timm, if it is installed, as timm/resnet18",
    "torchvision/NAME": "any image classifier of torchvision, as torchvision/resnet18",
    "FILE.py:FUNCTION": "your own: a function of the shape (ch, H, W) and the number of classes",
}
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Modules that reset their own weights."""
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Modules whose weights are drawn by their number of inputs."""

_ADOPTED: dict[str, Factory] = {}
"""The functions that this program was given, by name."""


def is_foreign(name: str) -> bool:
    """Whether a name is that of a network that is not ours.

    >>> is_foreign("timm/resnet18"), is_foreign("mine.py:small"), is_foreign("convnet")
    (True, True, False)
    """
    return name.startswith(("timm/", "torchvision/")) or ":" in name


def adopt(factory: Factory) -> str:
    """Make a function known in this process; returns the name by which networks of it are built.

    Raises `UserError` for what cannot be called, and for a network that is already made.

    >>> def small(shape, classes):
    ...     return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))
    >>> adopt(small)
    'condense.networks.foreign:small'
    """
    if isinstance(factory, nn.Module) or not callable(factory):
        raise UserError(
            f"a {type(factory).__name__} is no network: give a name, or a function of the shape "
            "and the number of classes that makes a new one"
        )
    function = factory.func if isinstance(factory, partial) else factory
    kind = function if hasattr(function, "__qualname__") else type(function)
    name = f"{kind.__module__}:{kind.__qualname__}"
    _ADOPTED[name] = factory
    return name


def adopt_named(name: str) -> None:
    """Import the function that a user names as `MODULE:FUNCTION` or `FILE.py:FUNCTION`.

    Other names are left alone. Raises `UserError` for what is not there.

    >>> adopt_named("convnet")
    >>> adopt_named("no_such_file.py:net")
    Traceback (most recent call last):
    condense.errors.UserError: network `no_such_file.py:net`: no_such_file.py does not exist
    """
    if not is_foreign(name) or "/NAME" in name or ":" not in name:
        return
    place, _, function = name.rpartition(":")
    try:
        module = _file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except UserError as error:
        raise UserError(f"network `{name}`: {error}") from None
    except Exception as error:  # the user's own code may raise anything
        raise UserError(f"network `{name}` cannot be imported ({_reason(error)})") from error
    if not callable(getattr(module, function, None)):
        raise UserError(f"network `{name}`: there is no function `{function}` in {place}")
    _ADOPTED[name] = getattr(module, function)


def adopted(names: Mapping[str, Factory] | tuple[str, ...]) -> dict[str, Factory]:
    """The functions among `names`, to be sent to another process; a mapping makes them known here.

    >>> adopted(("convnet",))
    {}
    """
    if isinstance(names, Mapping):
        _ADOPTED.update(names)
        return dict(names)
    return {name: _ADOPTED[name] for name in names if name in _ADOPTED}


def canonical(name: str, shape: Shape) -> str:
    """The name by which results are kept; that of a function ends in a digest of its layers.

    >>> def small(shape, classes):
    ...     return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))
    >>> canonical(adopt(small), (1, 8, 8))
    'condense.networks.foreign:small#...'
    """
    if ":" not in name:
        return name
    network = _made(name, shape, 2)
    sizes = [(key, tuple(value.shape)) for key, value in network.state_dict().items()]
    digest = hashlib.blake2b(f"{network} {sizes}".encode(), digest_size=4).hexdigest()
    return f"{name}#{digest}"


def make(name: str, shape: Shape, num_classes: int) -> "Foreign":
    """The network called `name`, on the CPU, with the weights that its own code gives it.

    Raises `UserError` for an unknown name, for a package that is not installed, and for a network
    that does not take such images or gives something else than logits.

    >>> make("torchvision/resnet18", (3, 32, 32), 10).embedding_size
    512
    """
    return Foreign(_made(name, shape, num_classes), name, shape, num_classes)


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


# ---- how modules are made and looked at


def _made(name: str, shape: Shape, num_classes: int) -> nn.Module:
    """The module of a name, made without touching the generators of this process."""
    factory = _factory(name)
    try:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(0)
            module = factory(shape, num_classes)
    except UserError:
        raise
    except Exception as error:  # the code of others may raise anything
        raise UserError(
            f"network `{name}` cannot be made for images {shape}, {num_classes} classes "
            f"({_reason(error)})"
        ) from error
    if not isinstance(module, nn.Module):
        raise UserError(f"network `{name}` makes a {type(module).__name__}, not a torch Module")
    return module


def _factory(name: str) -> Factory:
    if name.startswith("timm/"):
        return partial(_timm, name.removeprefix("timm/"))
    if name.startswith("torchvision/"):
        return partial(_torchvision, name.removeprefix("torchvision/"))
    if name not in _ADOPTED:
        raise UserError(
            f"network `{name}` is a function of your own, which this program was not given: name "
            "it by --network, or give it as `network`"
        )
    return _ADOPTED[name]


def _timm(name: str, shape: Shape, num_classes: int) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise UserError(
            f"network `timm/{name}` needs timm: pip install 'condensekit[timm]'"
        ) from None
    if not timm.is_model(name):
        raise unknown("timm network", name, timm.list_models(f"*{name[:4]}*")[:20])
    how: dict[str, Any] = {"num_classes": num_classes, "in_chans": shape[0]}
    settings = timm.get_pretrained_cfg(name)
    if settings is not None and settings.fixed_input_size:
        how["img_size"] = shape[1:]
    return timm.create_model(name, pretrained=False, **how)


def _torchvision(name: str, shape: Shape, num_classes: int) -> nn.Module:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown("torchvision network", name, known)
    how: dict[str, Any] = {"num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):
        how |= {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_"):
        how["image_size"] = shape[1]
    module = models.get_model(name, weights=None, **how)
    return module if shape[0] == 3 else nn.Sequential(_InColour(), module)


class _InColour(nn.Module):
    """Grey images [N, 1, H, W] with their channel thrice."""

    def forward(self, x: Tensor) -> Tensor:
        return x.expand(-1, 3, -1, -1)


def _file(path: Path) -> Any:
    """The module in a file of the user."""
    if not path.is_file():
        raise UserError(f"{path} does not exist")
    found = importlib.util.spec_from_file_location(path.stem, path)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def _switch_off_dropout(module: nn.Module) -> None:
    for one in module.modules():
        if (
            isinstance(one, nn.modules.dropout._DropoutNd)
            or type(one).__name__ == "StochasticDepth"
        ):
            one.p = 0.0
        if isinstance(getattr(one, "drop_prob", None), float):  # timm's DropPath
            one.drop_prob = 0.0


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
        reason = _reason(error)
        raise UserError(f"network `{name}` fails for images {shape} ({reason})") from error
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


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
