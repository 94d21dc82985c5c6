"""Ce qu'une personne regarde : pages HTML, figures, tableaux au terminal.

- `assemble` : La page d'un modèle, assemblée : les mesures déjà faites, et celles qu'elle demande
  encore.
- `charts` : La géométrie de toutes les figures : axes, courbes, nuages, barres, cartes d'attention.
- `comparison` : Une comparaison de stratégies : une page HTML d'un seul fichier, et des tableaux au
  terminal.
- `loss_curves` : Les courbes de perte d'un entraînement, relues de son journal ou de son modèle.
- `measures` : Les mesures d'un modèle, au terminal et en JSON.
- `model_page` : La page d'un modèle : ce qu'il a appris, ce qu'il récite, ce qu'il croit, ce qu'il
  regarde.
- `pages` : Des pages HTML d'un seul fichier : ni réseau, ni police, ni script d'ailleurs.
- `terminal` : Ce qui s'affiche : des tableaux simples, et visible ce qu'un écran cache ou montre
  mal.
- `trace` : La trace des filtres, montrée : tableaux au terminal, page HTML, objet JSON.
- `vocabularies` : Ce que des vocabulaires font d'un texte : une page HTML, et les mêmes vues au
  terminal.
"""
