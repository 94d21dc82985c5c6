"""Plusieurs processus sur un même entraînement, par `torch.distributed`.

- `group` : Plusieurs processus sur un même entraînement : le groupe de `torch.distributed`.
- `parallel` : Le parallélisme de données, appliqué au modèle de l'extérieur : DDP ou FSDP2 de
  PyTorch.
- `sharding` : L'état réparti sur disque, par `torch.distributed.checkpoint` (DCP), en safetensors.
- `store` : Les points de reprise d'un entraînement à plusieurs : un seul dossier, le même qu'à un
  seul.
- `watchdog` : Le chien de garde d'un processus : sans nouvelles à temps, il l'arrête.
- `world` : Les processus d'un entraînement ; ici, le cas d'un seul.
"""
