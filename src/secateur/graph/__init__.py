"""What a model computes, and which of its indices live and die together."""
