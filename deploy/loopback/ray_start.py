"""`ray start` for a node on this machine's loopback, which may be a further one.

With `ONE_MACHINE` in the environment, Ray keeps the loopback address and listens nowhere else, but its command refuses every node after the
first. All its processes have the variable; this one, which only starts them, goes on.
"""

from __future__ import annotations

import sys

from ray._private import ray_constants, services
from ray.scripts import scripts


def main(options: list[str]) -> None:
    ray_constants.ENABLE_RAY_CLUSTER = True
    (own,) = (option.partition("=")[2] for option in options if option.startswith("--node-ip-address="))
    # Otherwise it would be this machine's external address again.
    services.get_node_ip_address = lambda address=None: own
    scripts.cli(["start", *options])


if __name__ == "__main__":
    main(sys.argv[1:])
