"""How grpc's core must poll, said before it is imported: it reads this once."""

import os

POLLED_BY_US = "-event_engine_listener,-event_engine_client"
"""The core's event engine has a poller of its own, in threads of its own. The one it replaces waits in whoever looks at the
queue, and costs half as much."""

os.environ.setdefault("GRPC_EXPERIMENTS", POLLED_BY_US)
