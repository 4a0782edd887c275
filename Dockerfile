# The API and the command line in one image, without a GPU's libraries: `docker build -t recsys-meta .`
#   docker run recsys-meta --help          any command
#   docker run -p 8000:8000 -e RECSYS_META_API_KEYS=... -v data:/home/recsys recsys-meta      the API
FROM python:3.12-slim AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/recsys-meta
ENV PATH=/opt/recsys-meta/bin:$PATH
WORKDIR /src
COPY constraints.txt ./
# First and apart: the default build of PyTorch brings several GB of CUDA, and this layer outlives changes of ours.
RUN grep '^torch==' constraints.txt | sed 's/+cpu$//' > torch.txt \
    && pip install --index-url https://download.pytorch.org/whl/cpu --extra-index-url https://pypi.org/simple -r torch.txt
COPY pyproject.toml README.md LICENSE ./
COPY recsys_meta recsys_meta
COPY pipelines pipelines
COPY api api
COPY migrations migrations
RUN pip install --constraint constraints.txt '.[postgres,fast,otel]'

FROM python:3.12-slim
LABEL org.opencontainers.image.title="recsys-meta" org.opencontainers.image.licenses="Apache-2.0"
# libgomp: PyTorch and implicit compute with it.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home --home-dir /home/recsys recsys
COPY --from=build /opt/recsys-meta /opt/recsys-meta
ENV PATH=/opt/recsys-meta/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    OMP_WAIT_POLICY=PASSIVE \
    RECSYS_META_HOME=/home/recsys/var
USER 10001
WORKDIR /home/recsys
VOLUME /home/recsys
EXPOSE 8000
# It listens when its models are loaded and tried, so being alive is being warm.
HEALTHCHECK --interval=10s --timeout=3s --start-period=60s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/livez', timeout=2)"]
ENTRYPOINT ["recsys-meta"]
CMD ["serve", "--host", "0.0.0.0", "--port", "8000", "--workers", "2"]
