"""Pruning: settings, allocation, budgets, rounds, and the one function that cuts a model."""

from secateur.core.lazy import make_lazy

make_lazy(__name__)
