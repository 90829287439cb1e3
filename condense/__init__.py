"""Dataset condensation: distil an image dataset into a few synthetic images per class.

>>> from condense import condense, evaluate, load_dataset
>>> digits = load_dataset("digits")
>>> condensed = condense(digits, ipc=5, steps=200)
>>> evaluate(condensed, digits, repeats=5)["convnet"].mean
"""

from condense.data.catalogue import load_dataset
from condense.data.images import Dataset, Images
from condense.errors import UserError
from condense.methods.base import Recipe
from condense.methods.recipes import RECIPES, recipe_for
from condense.runs.run import condense, resume
from condense.sets.condensed import CondensedSet
from condense.training.evaluate import evaluate
from condense.training.score import Score
from condense.training.train import Protocol

resolve = recipe_for
"""The name that `recipe_for` had before."""

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
    "recipe_for",
    "resolve",
    "resume",
]
