"""What a model computes, and which of its indices live and die together."""

from secateur.core.lazy import make_lazy

make_lazy(__name__)
