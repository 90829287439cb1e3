"""Architecture search with a condensed proxy set: spaces, references, rankings and the trainings behind them."""

from nas.spaces import SPACES, space

__all__ = ["SPACES", "space"]
