"""Datasets: where they come from, and how pixels are preprocessed, batched and augmented."""

from condense.data.catalogue import load_dataset
from condense.data.images import Dataset, Images
from condense.data.own import as_dataset

__all__ = ["Dataset", "Images", "as_dataset", "load_dataset"]
