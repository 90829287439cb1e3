"""Dataset condensation: distil an image dataset into a few synthetic images per class.

>>> from condense import condense, evaluate, load_dataset
>>> digits = load_dataset("digits")
>>> condensed = condense(digits, ipc=5, steps=200)
>>> evaluate(condensed, digits, repeats=5)["convnet"].mean
"""

from condense.data import Dataset, Images, load_dataset
from condense.errors import UserError
from condense.evaluate import Score, evaluate
from condense.recipes import RECIPES, Recipe, resolve
from condense.run import condense, resume
from condense.store import CondensedSet
from condense.train import Protocol

__all__ = [
    "RECIPES",
    "CondensedSet",
    "Dataset",
    "Images",
    "Protocol",
    "Recipe",
    "Score",
    "UserError",
    "condense",
    "evaluate",
    "load_dataset",
    "resolve",
    "resume",
]
