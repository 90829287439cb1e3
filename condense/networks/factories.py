"""Networks that are not ours, by name: of timm, of torchvision, and functions that a user writes.

    timm/NAME, torchvision/NAME     built without trained weights
    MODULE:FUNCTION                 a function of the image shape and the number of classes, in a
    FILE.py:FUNCTION                module or a file of the user

A function is only called in a program that was given it (`adopt`, `adopt_named`): a name that
stands in a file is never imported.
"""

import hashlib
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from condense.errors import UserError, reason, unknown
from condense.networks.base import Shape

Factory = Callable[[Shape, int], nn.Module]
"""Makes a network from the shape of an image, (channels, height, width), and the classes."""

ABOUT = {
    "timm/NAME": "any image classifier of timm, if it is installed, as timm/resnet18",
    "torchvision/NAME": "any image classifier of torchvision, as torchvision/resnet18",
    "FILE.py:FUNCTION": "your own: a function of the shape (ch, H, W) and the number of classes",
}
_ADOPTED: dict[str, Factory] = {}
"""The functions that this program was given, by name."""


def is_foreign(name: str) -> bool:
    """Whether a name is that of a network that is not ours.

    >>> is_foreign("timm/resnet18"), is_foreign("mine.py:small"), is_foreign("convnet")
    (True, True, False)
    """
    return name.startswith(("timm/", "torchvision/")) or ":" in name


def adopt(factory: Factory, name: str | None = None) -> str:
    """Make a function known in this process; returns the name by which networks of it are built.

    It is `name`, which has a colon; by default, `MODULE:NAME` of the function. Raises `UserError`
    for what cannot be called with a shape and a number of classes, and for a network that is
    already made.

    >>> def small(shape, classes):
    ...     return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))
    >>> adopt(small)
    'condense.networks.factories:small'
    """
    if isinstance(factory, nn.Module) or not callable(factory):
        raise UserError(
            f"a {type(factory).__name__} is no network: give a name, or a function of the shape "
            "and the number of classes that makes a new one"
        )
    function = factory.func if isinstance(factory, partial) else factory
    kind = function if hasattr(function, "__qualname__") else type(function)
    name = name or f"{kind.__module__}:{kind.__qualname__}"
    _check_arguments(name, factory)
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
    if ":" not in name:
        return
    place, _, function = name.rpartition(":")
    try:
        module = _file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except UserError as error:
        raise UserError(f"network `{name}`: {error}") from None
    except Exception as error:  # the user's own code may raise anything
        raise UserError(f"network `{name}` cannot be imported ({reason(error)})") from error
    if not callable(getattr(module, function, None)):
        raise UserError(f"network `{name}`: there is no function `{function}` in {place}")
    adopt(getattr(module, function), name)


def _check_arguments(name: str, factory: Factory) -> None:
    """Raise `UserError` for a function that cannot take a shape and a number of classes."""
    try:
        inspect.signature(factory).bind((1, 8, 8), 2)
    except TypeError as error:
        raise UserError(
            f"network `{name}` must be a function of the image shape and the number of classes: "
            f"{error}"
        ) from None
    except ValueError:  # written in C: it does not tell what it takes
        return


def adopted(names: Iterable[str]) -> dict[str, Factory]:
    """The functions that are known here among `names`, to be sent to another process.

    >>> adopted(("convnet",))
    {}
    """
    return {name: _ADOPTED[name] for name in names if name in _ADOPTED}


def adopt_sent(functions: Mapping[str, Factory]) -> None:
    """Make functions known that another process has sent, as `adopted` gave them there.

    >>> adopt_sent({"mine:small": lambda shape, classes: nn.Linear(shape[0], classes)})
    >>> list(adopted(("convnet", "mine:small")))
    ['mine:small']
    """
    _ADOPTED.update(functions)


def canonical(name: str, shape: Shape) -> str:
    """The name by which results are kept; that of a function ends in a digest of its layers.

    >>> def small(shape, classes):
    ...     return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))
    >>> canonical(adopt(small), (1, 8, 8))
    'condense.networks.factories:small#...'
    """
    if ":" not in name:
        return name
    network = made(name, shape, 2)
    sizes = [(key, tuple(value.shape)) for key, value in network.state_dict().items()]
    digest = hashlib.blake2b(f"{network} {sizes}".encode(), digest_size=4).hexdigest()
    return f"{name}#{digest}"


def made(name: str, shape: Shape, num_classes: int) -> nn.Module:
    """The module of a foreign name, on the CPU, with the weights that its own code gives it.

    The generators of this process are left alone. Raises `UserError` for an unknown name, for a
    package that is not installed, and for code that fails.

    >>> type(made("torchvision/resnet18", (3, 32, 32), 10)).__name__
    'ResNet'
    """
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
            f"({reason(error)})"
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
            "it by --network of `condense`, `experts` or `evaluate`, or give it as `network`"
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
