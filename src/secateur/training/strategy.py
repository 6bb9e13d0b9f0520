"""Fabric's data-parallel strategy for `train`. Importing this module imports Lightning Fabric."""

from __future__ import annotations

import logging

from lightning_fabric.strategies.ddp import DDPStrategy


class SpawnStrategy(DDPStrategy):
    """DDP of one spawned process per device; parameters may lack gradients, and no banner goes to standard error."""

    def __init__(self) -> None:
        """Configure Fabric's strategy."""
        super().__init__(start_method="spawn", find_unused_parameters=True)

    def setup_environment(self) -> None:
        """Silence Fabric's log in the process, and join the group."""
        logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
        super().setup_environment()
