"""Ray Serve as the course uses it: one replica, batches of up to 16, the network in NumPy.

python serving_ray.py ARTIFACT PORT
"""

from __future__ import annotations

import signal
import sys

from rlcourse.serving.ray_serve import running

with running(sys.argv[1], port=int(sys.argv[2])):
    signal.pause()  # Ray answers SIGTERM with an exception, which ends the block
