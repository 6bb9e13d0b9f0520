"""Run folders: one model, where it came from, and what was measured of it."""

from secateur.core.extras import need
from secateur.core.lazy import make_lazy

need("yaml", for_="A run folder")

make_lazy(__name__)
