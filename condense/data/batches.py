"""The real training images on the device, and the batches drawn of them."""

import torch
from torch import Tensor

from condense.data.images import Dataset
from condense.data.preprocess import Preprocess, Whiten
from condense.randomness import uniforms

_WHITENED_BYTES = 2 * 2**30
"""Most memory for a whitened training set: CIFAR takes 0.6 GB."""


class RealImages:
    """The real training images on the device, and the batches drawn of them."""

    def __init__(
        self,
        dataset: Dataset,
        preprocess: Preprocess,
        per_class: int,
        seed: int,
        device: torch.device,
    ) -> None:
        train = dataset.train
        self._per_class, self._seed = per_class, seed
        self._preprocess = preprocess.to(device)
        self._pixels = train.pixels.to(device)
        # Whitening is a matrix product for every image drawn: where there is room, it is done once for all.
        self._whitened = (
            isinstance(preprocess, Whiten) and 4 * train.pixels.numel() <= _WHITENED_BYTES
        )
        if self._whitened:
            self._pixels = self._preprocess.apply(self._pixels)
        self._counts = train.counts().to(device)
        # Row c lists the images of class c; short rows are filled up with an index that is never drawn.
        table = torch.zeros(len(train.classes), int(train.counts().max()), dtype=torch.int64)
        for label in range(len(train.classes)):
            indices = train.of_class(label)
            table[label, : len(indices)] = indices
        self._table = table.to(device)

    def batch(
        self,
        classes: Tensor,
        step: int | Tensor,
        *,
        per_class: int | None = None,
        purpose: str = "real",
    ) -> Tensor:
        """A batch of each class, preprocessed, class-major: float32 [C * B, ch, H, W].

        Drawn without replacement; of a class with fewer than B images, all are taken equally often, to within one.
        `per_class` is another B than that of the steps; another `purpose` draws other images in the same step.
        """
        per_class = per_class or self._per_class
        table, counts = self._table[classes], self._counts[classes]
        keys = uniforms(self._seed, purpose, step, classes, table.shape[1])
        keys = keys.masked_fill(
            torch.arange(table.shape[1], device=keys.device) >= counts[:, None], 2.0
        )
        order = keys.topk(min(per_class, table.shape[1]), dim=1, largest=False).indices
        places = torch.arange(per_class, device=keys.device) % counts[:, None]
        chosen = table.gather(1, order.gather(1, places)).flatten()
        return (
            self._pixels[chosen] if self._whitened else self._preprocess.apply(self._pixels[chosen])
        )
