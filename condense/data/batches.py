"""Batches of real training images, drawn on the device."""

import torch
from torch import Tensor

from condense.data.images import Dataset
from condense.data.preprocess import Preprocess, Whiten
from condense.randomness import keys

_WHITENED_BYTES = 2 * 2**30
"""The most memory that a whitened training set may take. CIFAR takes 0.6 GB."""


class RealImages:
    """The real training images on the device, from which each step draws its batches.

    >>> from condense import load_dataset
    >>> from condense.data.preprocess import make_preprocess
    >>> digits = load_dataset("digits")
    >>> preprocess = make_preprocess("standard", digits)
    >>> real = RealImages(digits, preprocess, per_class=4, seed=0, device=torch.device("cpu"))
    >>> real.batch(torch.arange(10), step=0).shape
    torch.Size([40, 1, 8, 8])
    """

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
        # Whitening costs a matrix product for every image that is drawn. If there is enough
        # memory, all images are whitened once, here.
        self._whitened = (
            isinstance(preprocess, Whiten) and 4 * train.pixels.numel() <= _WHITENED_BYTES
        )
        if self._whitened:
            self._pixels = self._preprocess.apply(self._pixels)
        self._counts = train.counts().to(device)
        # Row c lists the images of class c. Short rows are padded; the padding is never drawn.
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
        """A preprocessed batch, ordered by class: float32 [C * B, ch, H, W].

        It holds B images of each class, B being the `per_class` of this object or of this call.

        Images are drawn without replacement. If a class has fewer than B images, all are taken, and
        repeated equally often, give or take one. Another `purpose` draws other images in the same
        step.
        """
        per_class = per_class or self._per_class
        table, counts = self._table[classes], self._counts[classes]
        drawn = keys(self._seed, purpose, step, classes, table.shape[1])
        columns = torch.arange(table.shape[1], device=drawn.device)
        drawn = drawn.masked_fill(columns >= counts[:, None], torch.iinfo(torch.int64).max)
        order = drawn.topk(min(per_class, table.shape[1]), dim=1, largest=False).indices
        places = torch.arange(per_class, device=drawn.device) % counts[:, None]
        chosen = table.gather(1, order.gather(1, places)).flatten()
        return (
            self._pixels[chosen] if self._whitened else self._preprocess.apply(self._pixels[chosen])
        )
