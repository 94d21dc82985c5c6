"""Les formes de modèle que les noyaux calculent."""

from __future__ import annotations

from gpt_architecture.config import GPTConfig

_FIXED = ("activation", "norm_eps")  # écrits dans les noyaux ; les largeurs y sont libres


def shape_obstacle(cfg: GPTConfig) -> str | None:
    """Ce que les noyaux ne calculent pas d'un modèle de cette forme ; None : ils la calculent."""
    return next(
        (
            f"ses noyaux n'ont que {name} = {getattr(GPTConfig, name)}, ce modèle a {value}"
            for name, value in cfg.variants().items()
            if name in _FIXED
        ),
        None,
    )
