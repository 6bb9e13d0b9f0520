"""Run folders: one model each, with its history and its measurements."""

from secateur.core.extras import need

need("yaml", for_="A run folder")
