"""One thread for each test process: they run side by side, and some compare bits between processes."""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # read by torch when it is first imported
