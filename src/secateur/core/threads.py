"""How threads wait for each other: shortly, then asleep.

torch's OpenMP runtime lets threads that wait spin for milliseconds. Where other programs want the processors too (a
shared machine, a second training), the spinning takes them from the very thread that is waited for, and small
networks train ten times slower. A short spin keeps the speed of an idle machine without that. It takes effect where
secateur is imported before torch; values set in the environment win.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
