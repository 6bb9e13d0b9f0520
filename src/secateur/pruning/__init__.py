"""Pruning: settings, allocation, budgets, rounds, and the one function that cuts a model."""
