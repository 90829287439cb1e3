"""Condensation methods, by name. To add one, write a module and list its class in `METHODS`."""

from condense.methods.base import Looping as Looping
from condense.methods.base import Matching as Matching
from condense.methods.base import Method
from condense.methods.cafe import CAFE
from condense.methods.cgan import CGAN
from condense.methods.datadam import DataDAM
from condense.methods.dc import DC
from condense.methods.dd import DD
from condense.methods.dm import DM
from condense.methods.dsa import DSA
from condense.methods.gmmn import GMMN
from condense.methods.kip import KIP
from condense.methods.ld import LD
from condense.methods.mmd import MMD
from condense.methods.mtt import MTT
from condense.methods.vae import VAE

METHODS: dict[str, type[Method]] = {
    kind.name: kind
    for kind in (
        DataDAM,
        DM,
        MMD,
        CAFE,
        DC,
        DSA,
        MTT,
        DD,
        KIP,
        LD,
        GMMN,
        CGAN,
        VAE,
    )
}
"""Every method class, by name."""
