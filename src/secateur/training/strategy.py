"""Fabric's data-parallel strategy, as `train` wants it. Importing this imports Lightning Fabric."""

from __future__ import annotations

import logging

from lightning_fabric.strategies.ddp import DDPStrategy


class SpawnStrategy(DDPStrategy):
    """One spawned process per device, parameters without a gradient allowed, and no banner on standard error."""

    def __init__(self) -> None:
        """Configure Fabric's strategy."""
        super().__init__(start_method="spawn", find_unused_parameters=True)

    def setup_environment(self) -> None:
        """Join the other processes."""
        logging.getLogger("lightning_fabric").setLevel(logging.ERROR)
        super().setup_environment()
