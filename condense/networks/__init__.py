"""Networks: the architectures by name, their initialisation, and ways to run them faster.

`condense.networks.build` builds a network from its name.
"""

from condense.networks.base import Network
from condense.networks.build import NETWORKS, ConvNetSpec, initialise

__all__ = ["NETWORKS", "ConvNetSpec", "Network", "initialise"]
