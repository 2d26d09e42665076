"""Is the process in this container well? Exit code 0 if it is, 1 if not, for a container's health check.

    python -m deploy.compose.probe grpc       an API server: grpc.health.v1 says SERVING
    python -m deploy.compose.probe metrics    a consumer: its metrics answer

Asks on loopback, on the ports that the process's own settings name.
"""

from __future__ import annotations

import sys
import urllib.request

from server.settings import Settings

SECONDS = 2.0


def serving(port: int) -> bool:
    """Whether the gRPC server on that port says so of itself."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            check = health_pb2_grpc.HealthStub(channel).Check
            answer = check(health_pb2.HealthCheckRequest(), timeout=SECONDS)
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def measured(port: int) -> bool:
    """Whether metrics are given on that port."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=SECONDS) as reply:
            return bool(reply.status == 200)
    except OSError:
        return False


def main(kind: str) -> int:
    """The exit code."""
    settings = Settings()
    well = serving(settings.port) if kind == "grpc" else measured(settings.metrics_port)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
