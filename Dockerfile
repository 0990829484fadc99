# One image a service: docker build --build-arg SERVICE=transform -t telemill/transform .
#
# Targets: `slim` (the default; coordinator `single`) and `emulator` (AWS for trying things out).
# Pin the base by digest where you build for production: --build-arg PYTHON_IMAGE=python@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS tools
ARG UV_VERSION=0.13.9
ENV UV_SYSTEM_CERTS=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never \
    UV_CACHE_DIR=/var/cache/uv \
    UV_PROJECT_ENVIRONMENT=/app/.venv
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore uv==${UV_VERSION}
WORKDIR /src

FROM tools AS build
ARG SERVICE=ingest
# What is locked changes seldom, our code often: dependencies first.
COPY pyproject.toml uv.lock ./
COPY shared/pyproject.toml shared/
COPY services/ingest/pyproject.toml services/ingest/
COPY services/transform/pyproject.toml services/transform/
COPY services/sink/pyproject.toml services/sink/
COPY services/anomaly/pyproject.toml services/anomaly/
COPY simulator/pyproject.toml simulator/
COPY demo/pyproject.toml demo/
COPY offline/pyproject.toml offline/
RUN --mount=type=cache,target=/var/cache/uv \
    uv sync --frozen --no-dev --no-install-workspace --package telemill-${SERVICE}
COPY shared shared
COPY services services
COPY simulator simulator
RUN --mount=type=cache,target=/var/cache/uv \
    uv sync --frozen --no-dev --no-editable --package telemill-${SERVICE} \
 && uv export --frozen --no-dev --package telemill-${SERVICE} --format cyclonedx1.5 --preview-features sbom-export \
      --output-file /app/sbom.cdx.json --quiet \
 && ln -s telemill-${SERVICE} /app/.venv/bin/service
COPY contracts /app/contracts
COPY tools/images/prune.py /src/
WORKDIR /app
# Started once, it proves that nothing it needs is gone, and leaves behind the bytecode of what it
# loads: at run time the root file system is read-only.
RUN python /src/prune.py "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')" \
 && .venv/bin/service --check

FROM ${PYTHON_IMAGE} AS base
RUN groupadd --gid 10001 telemill \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin telemill
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /app
STOPSIGNAL SIGTERM

FROM base AS emulator-build
COPY --from=tools /usr/local /usr/local
ENV UV_SYSTEM_CERTS=1 UV_LINK_MODE=copy UV_PYTHON_DOWNLOADS=never UV_CACHE_DIR=/var/cache/uv UV_PROJECT_ENVIRONMENT=/app/.venv
COPY tools/ministack /src
RUN --mount=type=cache,target=/var/cache/uv uv sync --frozen --directory /src

FROM base AS emulator
COPY --from=emulator-build /app /app
ENV BIND_HOST=0.0.0.0 GATEWAY_PORT=4566 IOT_MTLS_ENABLED=0 SFTP_ENABLED=0 LOG_LEVEL=ERROR \
    DOCKER_HOST=unix:///nonexistent.sock HOME=/tmp
WORKDIR /tmp
USER 10001:10001
EXPOSE 4566
HEALTHCHECK --interval=5s --timeout=10s --start-period=30s --retries=10 \
  CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:4566/_ministack/health', timeout=3)"]
ENTRYPOINT ["/app/.venv/bin/ministack"]

FROM base AS slim
ARG SERVICE=ingest
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG HEALTH_PORT=8080
LABEL org.opencontainers.image.title="telemill-${SERVICE}" \
      org.opencontainers.image.description="Factory-equipment telemetry on Amazon Kinesis: ${SERVICE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /app /app
ENV HEALTH_PORT=${HEALTH_PORT}
USER 10001:10001
EXPOSE ${HEALTH_PORT}
# Alive, not ready: who is not ready keeps trying, and says why at /readyz.
HEALTHCHECK --interval=10s --timeout=20s --start-period=60s --retries=6 \
  CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:%s/healthz' % os.environ['HEALTH_PORT'], timeout=3)"]
ENTRYPOINT ["/app/.venv/bin/service"]
