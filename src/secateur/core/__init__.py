"""The ground all stands on: exceptions, names, options, files, seeds, progress, tables. Imports nothing of ours."""
