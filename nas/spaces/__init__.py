"""Search spaces by name. To add a space, write its module and add a line here.

A space is a module with `NAME`, `SIZE`, `architecture(key)` and `sample(count, seed)`, where a key
is an index, an index as text, or a name. It also has the defaults of a search: `REGIME`,
`REFERENCE_REGIME`, `SAMPLE` and `SCORE`. An architecture has `index`, `name`,
`parameters(shape, num_classes)`, `flops(shape, num_classes)`, and
`build(shape, num_classes, **sizes)`, which takes the sizes of the regime.
"""

from importlib import import_module
from typing import Any

from condense.errors import unknown

SPACES = {
    "convnet720": "nas.spaces.convnet720",
    "nasbench201": "nas.spaces.nasbench201",
    "natssize": "nas.spaces.natssize",
}
"""The module of each space, by its name."""


def space(name: Any) -> Any:
    """The module of the space called `name`.

    What is no name is taken for a space itself: an object with what such a module has, as
    `nas.own.Own`. Raises `UserError` for an unknown name.

    >>> space("nasbench201").SIZE
    15625
    """
    if not isinstance(name, str):
        return name
    if name not in SPACES:
        raise unknown("search space", name, SPACES)
    return import_module(SPACES[name])


def describe(
    space_name: str,
    key: int | str,
    shape: tuple[int, int, int] = (3, 32, 32),
    num_classes: int = 10,
) -> dict[str, Any]:
    """Facts about an architecture: index, name, parameters, FLOPs, and what its space adds.

    `key` is the index or the name of the architecture. The parameters and the FLOPs depend on the
    `shape` of the images, (channels, height, width), and on `num_classes`.

    >>> describe("nasbench201", 6111)["isomorph"]
    6111
    """
    architecture = space(space_name).architecture(key)
    return {
        "space": space_name,
        "index": architecture.index,
        "name": architecture.name,
        "parameters": architecture.parameters(shape, num_classes),
        "flops": architecture.flops(shape, num_classes),
        **getattr(architecture, "facts", dict)(),  # what the space adds, if anything
    }


def fresh(
    architecture: Any,
    shape: tuple[int, int, int],
    num_classes: int,
    seed: int,
    device: Any = "cpu",
    **sizes: int,
) -> Any:
    """The network of an architecture on a device, with weights drawn from `seed`.

    >>> convnet = space("convnet720").architecture(0)
    >>> network = fresh(convnet, (1, 8, 8), num_classes=10, seed=0)
    >>> sum(parameter.numel() for parameter in network.parameters())
    20810
    """
    from condense.networks.build import initialise

    if hasattr(architecture, "fresh"):  # it has weights of its own
        return architecture.fresh(shape, num_classes, seed).to(device)
    network = architecture.build(shape, num_classes, **sizes).to(device)
    initialise(network, seed, architecture.index)
    return network
