"""Estimates of a safe pruning rate from a model's weights alone."""

from __future__ import annotations

from secateur.analysis.kurtosis import kurtosis
from secateur.analysis.safe_rate import CurvePoint, Excluded, SafeRate, TensorKurtosis, cosine_at, safe_rate

__all__ = ["CurvePoint", "Excluded", "SafeRate", "TensorKurtosis", "cosine_at", "kurtosis", "safe_rate"]
