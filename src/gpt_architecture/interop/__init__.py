"""Échange des poids et des vocabulaires avec les autres bibliothèques.

- `book` : Les poids du livre de Raschka : un fichier `.pth`, et ses fonctions du chapitre 5.
- `gguf` : GGUF, le format de llama.cpp, donc d'Ollama et de LM Studio : l'écrire, et dire ce qu'il
  tient.
- `hf` : Lire un GPT-2 de Transformers : un dossier, ses poids, sa configuration, son vocabulaire.
- `hf_export` : Écrire un dossier que Transformers, vLLM et le Hub lisent tel quel, sa fiche
  comprise.
- `hub` : Le Hub de Hugging Face : un dépôt, téléchargé dans son cache seulement quand on le
  demande.
- `nanogpt` : Lire et écrire un point de reprise de nanoGPT (`ckpt.pt`) : poids et forme, rien
  d'exécuté.
- `onnx` : ONNX, que lisent onnxruntime et ses semblables, sans PyTorch : l'écrire, et dire ce qu'il
  tient.
- `onnx_graph` : Le graphe ONNX d'un GPT-2, construit nœud par nœud, en opérateurs standard.
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
from gpt_architecture.interop.hf import SafetensorsFormat, TransformersFormat
from gpt_architecture.interop.hub import HUB
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
