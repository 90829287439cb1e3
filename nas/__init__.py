"""Architecture search with condensed sets as proxies: candidates are trained on them and ranked.

>>> from nas import SPACES
>>> sorted(SPACES)
['convnet720', 'nasbench201', 'natssize']
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
