"""Dataset condensation: distil an image dataset into a few synthetic images per class.

>>> from condense import condense, evaluate, load_dataset
>>> digits = load_dataset("digits")
>>> condensed = condense(digits, ipc=1, steps=2, quiet=True)
>>> len(condensed)
10
>>> evaluate(condensed, digits, repeats=1)["convnet"].mean  # doctest: +SKIP
0.71

The names are listed in `__init__.pyi`; each is imported when it is first used, so that
`import condense` alone is quick and loads no torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
