"""Dataset condensation: distil an image dataset into a few synthetic images per class.

>>> from condense import Protocol, condense, evaluate, load_dataset, recipe_for
>>> digits = load_dataset("digits")
>>> recipe = recipe_for("dm", "digits", digits.shape, ipc=2)
>>> small = recipe.override({"network": "convnet-d2-w16", "real_batch": 32, "steps": 5})
>>> condensed = condense(digits, ipc=2, recipe=small, quiet=True)
>>> condensed.images.shape
torch.Size([20, 1, 8, 8])
>>> protocol = Protocol(epochs=30, augment="none")
>>> scores = evaluate(condensed, digits, "convnet-d2-w16", repeats=2, protocol=protocol)
>>> scores["convnet-d2-w16"].mean > 0.2
True
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
