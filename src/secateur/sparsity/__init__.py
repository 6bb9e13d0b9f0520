"""Which parameters a cut may touch, what one cut removes, and the masks that come of it."""

from secateur.core.lazy import make_lazy

make_lazy(__name__)
