"""Ce qu'une personne regarde : pages HTML, figures, tableaux au terminal.

- `assemble` : La page d'un modèle, assemblée pour la commande evaluate.
- `charts` : La géométrie des figures d'un rapport : axes, points, étiquettes, barres.
- `comparison` : Une comparaison de stratégies au terminal : textes, mesures, conseils.
- `evaluation` : Les mesures d'un modèle, au terminal et en JSON.
- `figures` : La géométrie des figures d'une page de modèle : courbes, calibration, cartes
  d'attention.
- `loss_curves` : Les courbes de perte d'un entraînement, relues de son journal ou de son modèle.
- `memorisation` : La mémorisation au terminal : le verdict, le tableau, les passages.
- `model_page` : La page d'un modèle : ce qu'il a appris, ce qu'il récite, ce qu'il croit, ce qu'il
  regarde.
- `numbers` : Des nombres tels qu'on les lit en français : virgule décimale, espaces insécables.
- `pages` : Des pages HTML d'un seul fichier : ni réseau, ni police, ni script d'ailleurs.
- `report` : Le rapport d'une comparaison : une page HTML d'un seul fichier, figures comprises.
- `tokenizers` : Fertilités et découpages au terminal.
- `trace` : La trace des filtres, montrée : tableaux au terminal, page HTML, objet JSON.
- `vocabulary_page` : La page HTML qui montre comment un ou plusieurs vocabulaires découpent un
  texte.
"""
