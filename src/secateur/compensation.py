"""What makes up for the units that go.

A group of n units is brought to m by what is written into the tensors that make them and those that read them. The
plainest is to drop: the rows of what makes the removed units and the columns of what reads them go, and nothing else
changes.
"""

from __future__ import annotations

from secateur.registry import Registry

COMPENSATIONS: Registry[str] = Registry("compensation")
"""Name → what it does."""
COMPENSATIONS.add("drop", "nothing makes up for the units that go; what is left stays as it is")
