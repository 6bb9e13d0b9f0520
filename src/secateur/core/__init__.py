"""Lowest layer: exceptions, registries, options, files, seeds, progress bars, tables. Imports no other layer."""
