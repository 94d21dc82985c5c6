"""Plusieurs processus sur un même entraînement, par `torch.distributed`.

- `group` : Plusieurs processus sur un même entraînement : le groupe de `torch.distributed`.
- `parallel` : Le parallélisme de données, appliqué au modèle de l'extérieur : DDP ou FSDP2 de
  PyTorch.
- `store` : Les points de reprise d'un entraînement à plusieurs : un seul dossier, le même qu'à un
  seul.
- `world` : Les processus d'un entraînement : un seul, ou ce qu'il demande à plusieurs.
"""
