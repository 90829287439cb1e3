"""Architecture search with condensed sets as proxies: candidates are trained on them and ranked.

>>> space("nasbench201").architecture(6111).index
6111
"""

from nas.spaces import SPACES, space

__all__ = ["SPACES", "space"]
