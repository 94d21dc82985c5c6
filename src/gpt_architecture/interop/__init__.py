"""Échange des poids et des vocabulaires avec les autres bibliothèques.

- `book` : Les poids du livre de Raschka : un fichier `.pth`, et ses fonctions du chapitre 5.
- `gguf` : Écrire un fichier GGUF, le format de llama.cpp, donc d'Ollama et de LM Studio.
- `gguf_layout` : Ce qu'un fichier GGUF écrit d'un GPT-2, et comment : noms, découpages, type de
  chaque tenseur.
- `gguf_read` : Relire le GPT-2 d'un fichier GGUF, d'ici ou d'ailleurs, quantifié ou non.
- `hf` : Lire un GPT-2 de Transformers : un dossier, ses poids, sa configuration, son vocabulaire.
- `hf_export` : Écrire un dossier que Transformers, vLLM et le Hub lisent tel quel, sa fiche
  comprise.
- `hub` : Le Hub de Hugging Face : un dépôt, téléchargé ou envoyé seulement quand on le demande.
- `kquants` : Les quantificateurs « K » de llama.cpp, que le paquet gguf ne sait que relire : q4_K,
  q5_K, q6_K.
- `nanogpt` : Lire et écrire un point de reprise de nanoGPT (`ckpt.pt`) : poids et forme, rien
  d'exécuté.
- `ollama` : Un dossier d'Ollama, écrit ou lu : le modèle en GGUF, et le `Modelfile` qui le décrit.
- `onnx` : ONNX, que lisent onnxruntime et ses semblables, sans PyTorch : l'écrire, et dire ce qu'il
  tient.
- `onnx_folder` : Écrire un dossier que transformers.js charge, dans un navigateur ou dans Node.
- `onnx_graph` : Le graphe ONNX d'un GPT-2, construit nœud par nœud, en opérateurs standard.
- `onnx_int8` : Le même graphe ONNX, ses matrices et leurs activations sur 8 bits, en opérateurs
  standard.
- `peft` : Lit et écrit des adaptateurs de PEFT, pour Transformers et ceux qui servent ses modèles.
- `state_map` : La table des noms : les poids d'ici et ceux de GPT-2 dans Transformers, dans les
  deux sens.
- `vocabulary` : Le vocabulaire et les gabarits de conversation qui accompagnent des poids venus
  d'ailleurs.
"""

from gpt_architecture.formats.door import register
from gpt_architecture.interop.book import BookFormat
from gpt_architecture.interop.gguf_read import GGUFFormat
from gpt_architecture.interop.hf import SafetensorsFormat, TransformersFormat
from gpt_architecture.interop.hub import HUB
from gpt_architecture.interop.nanogpt import NanoGPTFormat
from gpt_architecture.interop.ollama import designated
from gpt_architecture.interop.onnx import ONNXFormat
from gpt_architecture.interop.peft import PEFTFormat

register(
    PEFTFormat(),  # avant Transformers : il peut y avoir aussi un config.json
    TransformersFormat(),
    NanoGPTFormat(),
    BookFormat(),
    GGUFFormat(),
    SafetensorsFormat(),
    ONNXFormat(),
    HUB,
    designated,  # d'Ollama
)
