"""Linear algebra on second moments: ridge regression, damping, ranks and nuclear norms."""

from secateur.core.lazy import make_lazy

make_lazy(__name__)
