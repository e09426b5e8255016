# One image for gateway and edges, x86-64 and arm64. It runs as a user of its own, without a home, with a read-only root:
# what outlives it is in /state, what may be lost in /cache. docs/CONTAINER.md says how.
ARG PYTHON=3.13

FROM python:${PYTHON}-slim AS build
COPY . /src
RUN python -m venv /opt/deepthings \
 && /opt/deepthings/bin/pip install --no-cache-dir -c /src/constraints.txt '/src[gateway,dashboard,frigate,mdns]'

FROM python:${PYTHON}-slim
# mosquitto: the broker that a gateway beyond loopback starts
RUN apt-get update \
 && apt-get install --yes --no-install-recommends mosquitto \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 5683 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin deepthings \
 && install --directory --owner deepthings --mode 0700 /state /cache
COPY --from=build /opt/deepthings /opt/deepthings
ENV PATH=/opt/deepthings/bin:$PATH STATE_DIRECTORY=/state CACHE_DIRECTORY=/cache \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER deepthings
VOLUME ["/state", "/cache"]
EXPOSE 8883 8099
# A gateway with --http 0.0.0.0:8099; compose.yaml has the edges'.
HEALTHCHECK --interval=30s --start-period=60s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8099/healthz', timeout=5)"]
ENTRYPOINT ["dt"]
CMD ["--help"]
