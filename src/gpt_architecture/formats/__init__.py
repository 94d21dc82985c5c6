"""Nos fichiers sur disque : reconnus, ouverts, écrits, inspectés.

- `adapter_file` : Le fichier d'adaptateurs `adapter.safetensors` : A et B, réglages, empreinte du
  modèle de départ.
- `checkpoint_files` : Le contenu d'un point de reprise : un dossier de fichiers scellés par leurs
  empreintes.
- `foreign_files` : Lire le JSON des autres dans des bornes, écrire un dossier entier ou pas du
  tout.
- `headers` : Ce qu'un fichier GGUF, ONNX ou d'adaptateurs dit de lui-même, sans que ses poids ne
  servent.
- `inspection` : Dire ce qu'est un modèle sans lire ses poids : en-têtes, formes, provenance,
  empreintes.
- `integrity` : Un modèle a-t-il changé depuis son écriture ? Ses sommes de contrôle le disent, s'il
  en a.
- `journal` : Le journal d'un entraînement : un objet JSON par ligne, et les mesures pour
  TensorBoard.
- `model_file` : Le fichier de modèle `gpt-model.pt` : configuration, poids, tokenizer, métadonnées.
- `open` : Reconnaître un modèle à son contenu, quel que soit son nom, et le lire.
- `quantized_file` : Le fichier d'un modèle quantifié : safetensors, avec tout ce qu'il faut pour
  l'employer.
- `source` : Trouver et lire un modèle, quelle que soit la façon de le nommer.
- `tensor_files` : Les fichiers de tenseurs de PyTorch et de safetensors : lus sans rien exécuter ni
  croire.
"""
