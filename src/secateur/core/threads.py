"""Spin times of waiting OpenMP threads.

Waiting threads of torch's OpenMP runtime spin for milliseconds. If other programs use the processors too (a shared
machine, a second training), spinning threads occupy the processors of the working ones, and small networks train ten
times slower. A short spin keeps the speed of an idle machine and avoids this. It takes effect if secateur is imported
before torch; values set in the environment have precedence.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
