# An image for the nodes of a cluster; see docs/clusters.md.
#
#   docker build --build-arg EXTRAS=gcs,tpu --build-arg COMMIT=$(git rev-parse HEAD) -t IMAGE .
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS build
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY configs configs
COPY squeeze_jax squeeze_jax
RUN pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM python:${PYTHON}-slim
# KubeRay asks a node for its health by wget.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends wget && rm -rf /var/lib/apt/lists/*
ARG EXTRAS=gcs
# hadolint ignore=DL3013
RUN --mount=type=bind,from=build,source=/wheel,target=/wheel \
    pip install --no-cache-dir "$(echo /wheel/*.whl)[ray,${EXTRAS}]" "ray[default]"
ARG COMMIT=
ENV SQUEEZE_JAX_COMMIT=${COMMIT}
RUN useradd --create-home --uid 1000 ray
USER 1000
WORKDIR /home/ray
CMD ["squeeze-jax", "--help"]
