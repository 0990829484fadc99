# One image a service: docker build --build-arg SERVICE=transform -t telemill/transform .
#
# Targets: `slim` (the default; coordinator `single`), `kcl` (with Java and Amazon's KCL, for
# transform, sink and anomaly) and `emulator` (AWS for trying things out).
# Pin the base by digest where you build for production: --build-arg PYTHON_IMAGE=python@sha256:…
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${PYTHON_IMAGE} AS tools
ARG UV_VERSION=0.13.9
ENV UV_SYSTEM_CERTS=1 \
    UV_LINK_MODE=copy \
    UV_PYTHON_DOWNLOADS=never \
    UV_CACHE_DIR=/var/cache/uv \
    UV_PROJECT_ENVIRONMENT=/app/.venv \
    SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
RUN pip install --no-cache-dir --disable-pip-version-check --root-user-action=ignore uv==${UV_VERSION}
# For `strip`: wheels carry 50 MB of symbols that only a debugger reads.
RUN apt-get update --quiet=2 \
 && DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends binutils \
 && rm -rf /var/lib/apt/lists/*
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
# loads, the standard library's too (the base image has none): at run time nothing can be written.
# numpy.libs was rewritten after linking, which strip is not made for.
RUN python /src/prune.py "$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')" \
 && find .venv -name '*.so*' -type f -not -path '*/numpy.libs/*' -exec strip --strip-unneeded {} + \
 && find .venv -name __pycache__ -prune -exec rm -r {} + \
 && PYTHONPYCACHEPREFIX=/app/bytecode .venv/bin/service --check

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
HEALTHCHECK --interval=5s --timeout=10s --start-period=180s --retries=10 \
  CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/4566 && printf 'GET /_ministack/health HTTP/1.0\\r\\n\\r\\n' >&3 && read -rt 5 _ status _ <&3 && [ $status = 200 ]"]
ENTRYPOINT ["/app/.venv/bin/ministack"]

# Python packages are told by uv from the lock (above), the operating system's by debsbom from dpkg.
FROM tools AS sbom
COPY tools/sbom /src
RUN --mount=type=cache,target=/var/cache/uv UV_PROJECT_ENVIRONMENT=/src/.venv uv sync --frozen --directory /src

FROM sbom AS sbom-slim
COPY --from=base /var/lib/dpkg /image/var/lib/dpkg
RUN .venv/bin/debsbom generate --sbom-type cdx --cdx-schema-version 1.5 --root /image --out /sbom-os

# What both kinds of a service's image have alike.
FROM base AS service-base
ENV HEALTH_PORT=8080 \
    PYTHONPYCACHEPREFIX=/app/bytecode
# Alive, not ready: who is not ready keeps trying, and says why at /readyz. By bash alone, because a
# Python that starts takes half a core for a second, in every container, again and again.
HEALTHCHECK --interval=10s --timeout=20s --start-period=180s --retries=6 \
  CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/$HEALTH_PORT && printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3 && read -rt 5 _ status _ <&3 && [ $status = 200 ]"]
ENTRYPOINT ["/app/.venv/bin/service"]

FROM tools AS jars
ARG KCL_SET=kcl2
COPY shared/src/telemill/__init__.py shared/src/telemill/errors.py /src/telemill/
COPY shared/src/telemill/kcl /src/telemill/kcl
# From Maven Central, or from the repository the argument names; each jar is checked against the lock.
ARG KCL_MVN_REPO_SEARCH_URL=
RUN python -m telemill.kcl.jars --directory /app/kcl --set ${KCL_SET}

# Java below what is ours: the images of three services share this layer.
FROM service-base AS jre
RUN apt-get update --quiet=2 \
 && mkdir -p /usr/share/man/man1 \
 && DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends openjdk-17-jre-headless \
 && rm -rf /var/lib/apt/lists/* /var/cache/apt/*
COPY --from=jars /app/kcl /app/kcl
ENV KINESIS_COORDINATOR=kcl \
    KINESIS_KCL_JARS=/app/kcl

FROM sbom AS sbom-kcl
COPY --from=jre /var/lib/dpkg /image/var/lib/dpkg
RUN .venv/bin/debsbom generate --sbom-type cdx --cdx-schema-version 1.5 --root /image --out /sbom-os

FROM jre AS kcl
ARG SERVICE=transform
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="telemill-${SERVICE}-kcl" \
      org.opencontainers.image.description="Factory-equipment telemetry on Amazon Kinesis: ${SERVICE}, with Amazon's KCL" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /app /app
COPY --from=sbom-kcl /sbom-os.cdx.json /app/sbom-os.cdx.json
# Java and jars are all there, or there is no image.
RUN service --check
USER 10001:10001
EXPOSE 8080

FROM service-base AS slim
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
COPY --from=sbom-slim /sbom-os.cdx.json /app/sbom-os.cdx.json
ENV HEALTH_PORT=${HEALTH_PORT}
USER 10001:10001
EXPOSE ${HEALTH_PORT}
