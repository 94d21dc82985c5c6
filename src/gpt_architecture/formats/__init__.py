"""Nos fichiers sur disque : reconnus, ouverts, écrits, inspectés.

- `adapter_file` : Le fichier d'adaptateurs `adapter.safetensors` : A et B, réglages, empreinte du
  modèle de départ.
- `card` : La fiche d'un modèle : ses faits, réunis une fois, dits en français et en anglais.
- `checkpoint` : Les points de reprise : des dossiers scellés par leurs empreintes, et le dernier
  qui soit intact.
- `door` : La porte : un nom entre, un modèle reconnu en sort, dont rien n'est lu deux fois.
- `inspection` : Dire ce qu'est un modèle sans lire ses poids : en-têtes, formes, provenance,
  empreintes.
- `journal` : Le journal d'un entraînement : un objet JSON par ligne, ajouté entier ou pas du tout,
  relu.
- `listing` : Les modèles d'un dossier : ce qu'en disent leurs en-têtes, sans lire leurs poids.
- `model_file` : Le fichier de modèle `gpt-model.pt` : configuration, poids, tokenizer, métadonnées.
- `own_formats` : Nos genres de modèles, tels que la porte les reconnaît : modèle, quantifié,
  adaptateurs…
- `quantized_file` : Le fichier d'un modèle quantifié : safetensors, avec tout ce qu'il faut pour
  l'employer.
- `story` : Ce qu'un certificat raconte : ses maillons suivis un à un, reprises appliquées.
- `tensor_files` : Les fichiers de tenseurs de PyTorch et de safetensors : lus sans rien exécuter ni
  croire.
"""

import gpt_architecture.formats.own_formats  # noqa: F401 — nos genres s'inscrivent à la porte
