# Sert un modèle sur CPU :
#   docker build -t gpt-architecture-serve:0.1.0 .
#   docker run -p 127.0.0.1:8000:8000 -v "$PWD/gpt-model.pt:/modele/gpt-model.pt:ro" \
#       gpt-architecture-serve:0.1.0
FROM python:3.12.12-slim-bookworm

# Noyaux compilés par Numba et PyTorch : libgomp ; rien d'autre du système.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --create-home --uid 10001 service \
    && install --directory --owner=service /var/cache/gpt-architecture

WORKDIR /application
COPY requirements.txt ./
# PyTorch d'abord, sans CUDA : l'image pèse dix fois moins. Toutes les versions sont celles de
# requirements.txt, celles que les tests emploient.
RUN pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu "torch==2.13.0" \
    && pip install --no-cache-dir --constraint requirements.txt hatchling editables
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir --constraint requirements.txt --no-build-isolation ".[serve,fast,bpe]"

USER service
ENV NUMBA_CACHE_DIR=/var/cache/gpt-architecture \
    PYTHONUNBUFFERED=1
# Les noyaux, pour le processeur de cette machine. Un autre les recompile à son premier départ (une
# minute ou deux) et les garde à côté : ce dossier doit rester inscriptible.
RUN python -c "import pkgutil as p, gpt_architecture.kernels as k; [__import__(m.name) for m in p.walk_packages(k.__path__, k.__name__ + '.')]"

EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=2)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["gpt-architecture", "serve", "/modele/gpt-model.pt", "--host", "0.0.0.0"]
