# Serves the shipped encoder:  docker run -p 8000:8000 lengthwise
# Serves another:              docker run -p 8000:8000 -v ./models:/models -e LENGTHWISE_MODEL=/models/mine.onnx lengthwise
# Keeps what it measures:      docker run -p 8000:8000 -v lengthwise-cache:/cache lengthwise
# For NVIDIA GPUs, build with --build-arg LOCK=requirements-gpu.lock and run with --gpus all.
# For gRPC, build with --build-arg LOCK=requirements-grpc.lock:
#                              docker run -p 8000:8000 -p 8001:8001 -e LENGTHWISE_GRPC_PORT=8001 lengthwise
# To encode files, build with --build-arg LOCK=requirements-bulk.lock:
#                              docker run -v ./data:/data --entrypoint python lengthwise -m bulk /data/in -o /data/out

FROM python:3.11-slim AS build
ARG LOCK=requirements.lock
COPY ${LOCK} /tmp/requirements.lock
RUN python -m venv /opt/venv \
    && /opt/venv/bin/pip install --no-cache-dir --only-binary :all: --no-deps --require-hashes -r /tmp/requirements.lock \
    && /opt/venv/bin/pip uninstall --yes --quiet pip setuptools \
    && mkdir /cache
COPY lengthwise /app/lengthwise
COPY service /app/service
COPY bulk /app/bulk
RUN /opt/venv/bin/python -m compileall -q /app

FROM python:3.11-slim
ARG REVISION=unknown
LABEL org.opencontainers.image.title="lengthwise" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.description="Embeddings of variable-length sequences over HTTP" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    ORT_DISABLE_TELEMETRY=1 \
    LENGTHWISE_CACHE_DIR=/cache \
    LENGTHWISE_HOST=0.0.0.0
WORKDIR /app
COPY --from=build /opt/venv /opt/venv
COPY --from=build /app .
COPY artifacts artifacts
COPY LICENSE LICENSE
COPY --from=build --chown=65532:65532 /cache /cache
# A number, so that Kubernetes can check that it is not root.
USER 65532:65532
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["python", "-m", "lengthwise", "ready"]
ENTRYPOINT ["python", "-m", "lengthwise", "serve"]
