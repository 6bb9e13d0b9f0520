"""Run folders: one model, where it came from, and what was measured of it."""
