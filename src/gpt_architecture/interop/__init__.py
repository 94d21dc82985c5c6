"""Échange des poids et des vocabulaires avec les autres bibliothèques.

- `book` : Lire un fichier de poids du livre de Raschka (`.pth`), dont la forme se déduit des
  tenseurs.
- `book_weights` : Les poids d'OpenAI dans un modèle, par les fonctions du livre de Raschka
  (chapitre 5).
- `chat_templates` : Les gabarits de conversation d'un dossier de Transformers : les lire, les
  rendre.
- `gguf` : Écrit un modèle en GGUF, le format de llama.cpp, donc d'Ollama et de LM Studio.
- `gguf_vocabulary` : Le vocabulaire d'un fichier GGUF, tiré de la description `tokenizer.json` de
  notre tokenizer.
- `hf` : Lire un GPT-2 de Transformers : un dossier, ses poids, sa configuration, son vocabulaire.
- `hf_export` : Écrire un dossier que Transformers, vLLM et le Hub lisent tel quel.
- `hub` : Télécharger un GPT-2 du Hub de Hugging Face, seulement quand on le demande.
- `model_card` : La fiche d'un modèle exporté (`README.md`), en français puis en anglais.
- `nanogpt` : Lire et écrire un point de reprise de nanoGPT (`ckpt.pt`) : poids et forme, rien
  d'exécuté.
- `onnx` : Écrit un modèle en ONNX, que lisent onnxruntime et ses semblables, sans PyTorch.
- `onnx_graph` : Le calcul de GPT-2 en opérateurs ONNX standard, écrit nœud par nœud.
- `peft` : Écrit des adaptateurs comme PEFT les lit, pour Transformers et ceux qui servent ses
  modèles.
- `state_map` : La table des noms : les poids d'ici et ceux de GPT-2 dans Transformers, dans les
  deux sens.
- `vocabulary` : Le vocabulaire qui accompagne des poids venus d'ailleurs.
"""
