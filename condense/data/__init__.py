"""Datasets: where they come from, and how pixels are preprocessed, batched and augmented."""

from condense.data.catalogue import load_dataset
from condense.data.images import Dataset, Images

__all__ = ["Dataset", "Images", "load_dataset"]
