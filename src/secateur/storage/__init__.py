"""Models and training states on disk: safetensors for tensors, JSON for everything else, never pickle."""
