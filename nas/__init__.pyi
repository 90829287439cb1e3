from .search import rank as rank
from .spaces import SPACES as SPACES
from .spaces import space as space
