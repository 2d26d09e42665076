# syntax=docker/dockerfile:1
# One image for every process of Transom but the edge (Envoy) and the stores; the command says which:
#
#   python -m server               an API server (the default)
#   python -m consumers relay      outbox → RabbitMQ
#   python -m consumers work       tasks and mails
#   transom build | migrate | seed | key …
#
# They are the entry points that `make up` runs. Settings are TRANSOM_* variables (server/settings.py). The app that is
# served stands in /srv/app: examples/inspect, unless another folder is mounted there or copied over it:
#
#   FROM transom
#   COPY my-app /srv/app

FROM python:3.11.13-slim-bookworm AS build
WORKDIR /srv/transom
RUN python -m venv /srv/venv
ENV PATH=/srv/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# What Transom needs, before Transom itself: this layer is made again only when pyproject.toml changes.
COPY pyproject.toml README.md ./
RUN mkdir -p server edge consumers deploy proto/gen && pip install --editable ".[inspect]"
COPY proto proto
COPY server server
COPY edge edge
COPY consumers consumers
COPY deploy deploy
COPY envoy.yaml ./
COPY examples/inspect /srv/app
# Compiled once here, since the files are read-only for the user they run as.
RUN python -m compileall -q server edge consumers deploy proto/gen /srv/app && pip uninstall --yes pip setuptools

FROM python:3.11.13-slim-bookworm
RUN useradd --system --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin transom
COPY --from=build /srv /srv
WORKDIR /srv/transom
ENV PATH=/srv/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    # The compiler of protos keeps a cache at home.
    HOME=/tmp \
    # Half of grpc's own cost on few cores is its event engine: the poller it replaces is cheaper.
    GRPC_EXPERIMENTS=-event_engine_listener,-event_engine_client \
    TRANSOM_APP=/srv/app \
    TRANSOM_HOST=0.0.0.0 \
    TRANSOM_PORT=50051 \
    TRANSOM_METRICS_PORT=9090
USER 10001:10001
EXPOSE 50051
# SIGTERM drains: NOT_SERVING first, then calls in flight end. Give it 20 s.
STOPSIGNAL SIGTERM
# Of an API server. Consumers are asked for their metrics instead: `deploy.compose.probe metrics`.
HEALTHCHECK --interval=10s --timeout=10s --start-period=30s --retries=3 CMD ["python", "-m", "deploy.compose.probe", "grpc"]
CMD ["python", "-m", "server"]
