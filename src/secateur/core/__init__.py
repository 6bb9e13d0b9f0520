"""The ground all stands on: exceptions, names, options, files, seeds, progress, tables. Imports nothing of ours."""

from secateur.core.lazy import make_lazy

make_lazy(__name__)
