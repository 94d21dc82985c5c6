# Sert un modèle sur CPU : docker build -t gpt-architecture . && docker run -p 127.0.0.1:8000:8000 \
#   -v "$PWD/gpt-model.pt:/modele/gpt-model.pt:ro" gpt-architecture
FROM python:3.12-slim

# Noyaux compilés par Numba et PyTorch : libgomp ; rien d'autre du système.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /application
# PyTorch d'abord, sans CUDA : l'image pèse dix fois moins.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "torch==2.13.0"
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir ".[serve,fast,bpe]"

RUN useradd --system --create-home --uid 10001 service
USER service
ENV NUMBA_CACHE_DIR=/tmp/numba \
    PYTHONUNBUFFERED=1
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["gpt-architecture", "serve", "/modele/gpt-model.pt", "--host", "0.0.0.0"]
