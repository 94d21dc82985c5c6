"""Du modèle au texte : stratégies de décodage, boucles de génération, flux.

- `beam` : Recherche en faisceau : suivre plusieurs séquences à la fois, garder les plus probables.
- `cache_reader` : Les passages d'un modèle : ce que des lignes d'un cache lisent de nouveau, et ce
  qui les suit.
- `config` : Comment générer : une configuration immuable, validée, que tout le décodage partage.
- `constraints` : Contraintes : ne laisser écrire que ce qu'une expression, une liste ou un schéma
  permet.
- `driver` : Le pilote : le cache d'un modèle, ce qu'il contient, et ce qu'il reste à lire.
- `generator` : Le générateur : des invites et une configuration, des séquences en retour.
- `grammars` : D'une contrainte, expression, liste ou schéma JSON, à sa grammaire pour llguidance.
- `named_settings` : De réglages nommés, tels qu'une personne ou un client les donne, à une
  configuration.
- `penalties` : Pénalités : ce qui déplace des logits, d'après le texte déjà là ou à la demande.
- `pipeline` : L'ordre des filtres : d'une configuration à la suite des étapes qui s'appliquent aux
  logits.
- `processors` : Ce qui retire des tokens : filtres (d'après les logits du pas seul) et
  interdictions.
- `proposers` : Ce qui propose des tokens : le texte lui-même, le modèle allégé, un modèle
  auxiliaire.
- `schemas` : Les schémas JSON d'une contrainte : lus, leurs objets fermés, leur plus court document
  estimé.
- `sequence` : Une séquence en cours : ses tokens, ses filtres, son tirage, son texte, et quand elle
  s'arrête.
- `settings` : Ce qu'est un réglage du décodage : son aide, ses bornes, qui peut le donner ; le
  registre.
- `simple` : Boucles de génération lisibles : l'oracle, sans cache, et le flux le plus simple, avec
  cache.
- `speculative` : Décodage spéculatif : proposer plusieurs tokens, les vérifier en un seul passage
  du modèle.
- `strategies` : Des logits au token : les stratégies, fonctions pures et par lots, le tri et le
  tirage.
- `trace` : La trace des filtres : pour chaque token produit, ce que chaque étape a gardé, retiré,
  pesé.
"""
