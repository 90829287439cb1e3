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

The names are listed in `__init__.pyi`; each is imported when it is first used, so that
`import condense` alone is quick and loads no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
