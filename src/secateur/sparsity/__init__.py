"""Which parameters a cut may touch, what one cut removes, and the masks that come of it."""
