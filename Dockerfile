# Images of SEALR (docs/containers.md). The default target serves a registered model; the target "jobs" trains and runs
# the flows, MLflow's server and Prefect's.
#
#   docker build -t sealr .                                    # the server
#   docker build -t sealr-jobs --target jobs .                 # jobs
#
# PIP_EXTRA_INDEX_URL: your index of CPU wheels of torch; without one, Linux gets torch's much larger CUDA build.
# WEIGHTS: pretrained weights to put inside, by name. The labeller's are enough to serve; without them the first start
# downloads them.
ARG PYTHON=3.11.14-slim-bookworm

FROM python:${PYTHON} AS base
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
ENV PATH=/opt/sealr/bin:$PATH SEALR_WEIGHTS=/opt/weights HF_HOME=/opt/weights/hub \
    SEALR_HOME=/var/lib/sealr/state HOME=/var/lib/sealr
RUN python -m venv /opt/sealr \
    && groupadd --gid 10001 sealr \
    && useradd --uid 10001 --gid sealr --home-dir /var/lib/sealr --create-home --shell /usr/sbin/nologin sealr \
    && install --directory --owner sealr --group sealr /opt/weights /var/lib/sealr/state
WORKDIR /src
COPY conda.yaml ./
# The lock, as constraints: one tested version of each dependency
RUN sed -nE 's/^ +- ([A-Za-z0-9_.-]+)(\[[a-z]+\])?==([^ ]+).*/\1==\3/p' conda.yaml > /opt/constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY sealr sealr
COPY flows flows
COPY configs configs
COPY expectations expectations
LABEL org.opencontainers.image.title="SEALR" \
      org.opencontainers.image.description="Recommends the next items to each user from what people write in reviews" \
      org.opencontainers.image.version="0.2.0" \
      org.opencontainers.image.licenses="Apache-2.0"

FROM base AS jobs
ARG PIP_EXTRA_INDEX_URL=""
ARG WEIGHTS="sentence-transformers/all-MiniLM-L6-v2 HuggingFaceTB/SmolLM2-135M-Instruct"
RUN pip install --constraint /opt/constraints.txt ".[train,team]"
WORKDIR /var/lib/sealr
USER 10001:10001
RUN for name in $WEIGHTS; do sealr weights "$name" || exit 1; done
CMD ["sealr", "deployments"]

FROM base AS serving
ARG PIP_EXTRA_INDEX_URL=""
ARG WEIGHTS="sentence-transformers/all-MiniLM-L6-v2"
RUN pip install --constraint /opt/constraints.txt .
WORKDIR /var/lib/sealr
USER 10001:10001
RUN for name in $WEIGHTS; do sealr weights "$name" || exit 1; done
EXPOSE 5001
HEALTHCHECK --interval=15s --timeout=6s --start-period=180s --retries=4 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:5001/ready', timeout=5)"]
CMD ["sealr", "serve", "--model", "models:/sealr@champion", "--host", "0.0.0.0", "--port", "5001"]
