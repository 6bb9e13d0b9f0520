"""Run folders: one model each, with its history and its measurements."""
