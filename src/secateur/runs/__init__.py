"""Run folders: one model, where it came from, and what was measured of it."""

from secateur.core.extras import need

need("yaml", for_="A run folder")
