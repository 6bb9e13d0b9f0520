"""Sparsity: prunable parameters, granularities and masks."""
