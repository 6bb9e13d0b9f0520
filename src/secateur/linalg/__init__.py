"""Linear algebra on second moments: ridge regression, damping, ranks and nuclear norms."""
