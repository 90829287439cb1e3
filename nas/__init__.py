"""Architecture search with a condensed proxy set: spaces, references, rankings and their trainings.

>>> from nas import SPACES
>>> sorted(SPACES)
['convnet720', 'nasbench201']
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
