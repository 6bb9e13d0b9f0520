"""Models and training states on disk: safetensors for tensors, JSON for everything else, never pickle."""

from secateur.core.lazy import make_lazy

make_lazy(__name__)
