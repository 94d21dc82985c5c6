"""La commande `evaluate` : ses options, ses mesures, leur page.

- `measures` : Les mesures de `evaluate` : leurs options, ce qui est lu, calculé, montré pendant le
  calcul.
- `study` : Ce qu'un modèle récite, et la page qui le montre : les options de `evaluate`, leur
  calcul.
"""
