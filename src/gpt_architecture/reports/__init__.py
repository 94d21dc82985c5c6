"""Ce qu'une personne regarde : pages HTML, figures, tableaux au terminal.

- `charts` : La géométrie de toutes les figures : axes, courbes, nuages, barres, cartes d'attention.
- `comparison` : Une comparaison de stratégies : une page HTML d'un seul fichier, et des tableaux au
  terminal.
- `console` : Ce qui avance, montré à qui regarde : une barre au terminal ou dans un carnet, sinon
  des lignes.
- `curves` : Les courbes de perte : relues du journal de l'entraînement ou du modèle, et tracées.
- `french` : Les épreuves du français : paires minimales et mots à deviner, tableaux et types
  simples.
- `hygiene` : Le bilan d'une préparation : ce qui est entré, ce qui est sorti, ce qui a été retiré.
- `inside` : Ce qui se passe dans un modèle, montré : grilles de couches, tableaux, carte de tokens.
- `inspection` : Ce qu'est un modèle qu'on n'a pas chargé : ses faits, un par ligne, et ses
  tenseurs.
- `labels` : Des textes classés ou notés : ce qu'un modèle en dit, ce qu'il vaut, et la référence à
  côté.
- `listing` : Des modèles trouvés : une ligne chacun, comme les fichiers d'un dossier.
- `measures` : Les mesures d'un modèle : des tableaux au terminal, et des types simples pour le
  JSON.
- `memorisation` : Ce que le modèle récite : un tableau par stratégie, et ses textes, au terminal.
- `model_page` : La page d'un modèle : ce qu'il a appris, ce qu'il récite, ce qu'il croit, ce qu'il
  regarde.
- `notebook` : Ce qu'un carnet affiche : des fragments de HTML autonomes, lisibles sur fond clair ou
  sombre.
- `pages` : Des pages HTML d'un seul fichier : ni réseau, ni police, ni script d'ailleurs.
- `plan` : Ce qu'un plan montre : où en sont ses essais, ce qu'il propose, et les autres tailles.
- `portable/` : Un modèle dans une page : un seul fichier HTML, où il s'exécute, sans réseau.
- `preferences` : Les paires de réponses : un tableau, et des types simples.
- `privacy` : Le dossier de confidentialité, montré : une page HTML d'un seul fichier, et des
  tableaux.
- `privacy_facts` : Ce qu'un dossier de confidentialité réunit, et sa forme pour un programme.
- `privacy_origins` : Ce qu'un dossier de confidentialité ne mesure pas sur le modèle : sources,
  oublis, énergie.
- `privacy_sections` : Les parties d'un dossier de confidentialité, en phrases, tableaux et figures.
- `provenance` : D'où viennent les mots d'un texte, au terminal : ses passages, leurs documents, et
  le hasard.
- `terminal` : Ce qu'un terminal montre : des tableaux, et visible ce qu'un écran cache.
- `trace` : La trace des filtres, montrée : tableaux au terminal, page HTML, objet JSON.
- `training` : L'avancement d'un entraînement, sur une barre, et ce que sa perte vaut.
- `vocabularies` : Ce que des vocabulaires font d'un texte : une page HTML, et les mêmes vues au
  terminal.
"""
