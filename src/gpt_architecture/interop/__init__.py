"""Échange des poids et des vocabulaires avec les autres bibliothèques.

- `book` : Les poids du livre de Raschka : un fichier `.pth`, et ses fonctions du chapitre 5.
- `gguf` : Écrit un modèle en GGUF, le format de llama.cpp, donc d'Ollama et de LM Studio.
- `headers` : Ce qu'un fichier GGUF ou ONNX dit de lui-même, sans que ses poids ne servent.
- `hf` : Lire un GPT-2 de Transformers : un dossier, ses poids, sa configuration, son vocabulaire.
- `hf_export` : Écrire un dossier que Transformers, vLLM et le Hub lisent tel quel, sa fiche
  comprise.
- `hub` : Télécharger un GPT-2 du Hub de Hugging Face, seulement quand on le demande.
- `nanogpt` : Lire et écrire un point de reprise de nanoGPT (`ckpt.pt`) : poids et forme, rien
  d'exécuté.
- `onnx` : Écrit un modèle en ONNX, que lisent onnxruntime et ses semblables, sans PyTorch.
- `peft` : Écrit des adaptateurs comme PEFT les lit, pour Transformers et ceux qui servent ses
  modèles.
- `state_map` : La table des noms : les poids d'ici et ceux de GPT-2 dans Transformers, dans les
  deux sens.
- `vocabulary` : Le vocabulaire et les gabarits de conversation qui accompagnent des poids venus
  d'ailleurs.
"""

from gpt_architecture.formats.door import register
from gpt_architecture.interop.book import BookFormat
from gpt_architecture.interop.gguf import GGUFFormat
from gpt_architecture.interop.hf import HUB, SafetensorsFormat, TransformersFormat
from gpt_architecture.interop.nanogpt import NanoGPTFormat
from gpt_architecture.interop.onnx import ONNXFormat

register(
    TransformersFormat(),
    NanoGPTFormat(),
    BookFormat(),
    GGUFFormat(),
    SafetensorsFormat(),
    ONNXFormat(),
    HUB,
)
