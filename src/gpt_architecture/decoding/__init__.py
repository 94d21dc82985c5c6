"""Du modèle au texte : stratégies de décodage, boucles de génération, flux.

- `bans` : Interdictions : les tokens que le texte, la demande ou une contrainte excluent au pas
  suivant.
- `batch` : Des suites qui avancent ensemble : un passage du modèle par token, pour toutes.
- `beam` : Recherche en faisceau : suivre plusieurs suites à la fois, garder les plus probables.
- `config` : Comment générer : une configuration immuable, validée, que tout le décodage partage.
- `constraints` : Contraintes : ne laisser écrire que ce qu'une expression, une liste ou un schéma
  permet.
- `generator` : Le générateur : des débuts de texte et une configuration, des suites en retour.
- `grammars` : D'une contrainte à sa grammaire pour llguidance, et de la grammaire à ce qui la suit.
- `json_schemas` : Les schémas JSON tels que leurs auteurs les entendent : objets fermés, mode
  strict, taille.
- `mirostat` : Mirostat v2 : un tirage qui tient la surprise moyenne près d'une cible (Basu et al.,
  2021).
- `ordering` : Trier un vocabulaire : sur CPU par NumPy, dont le tri vectoriel est dix fois celui de
  PyTorch.
- `penalties` : Pénalités : ce qui déplace des logits, d'après le texte déjà là ou à la demande.
- `pipeline` : L'ordre des filtres : d'une configuration à la suite des étapes qui s'appliquent aux
  logits.
- `processors` : Filtres de la distribution : chacun retire des tokens d'après les logits du pas
  seul.
- `reader` : Lire des suites de même longueur, sans relire ce que le cache tient déjà.
- `sampling` : Des logits au token : le tirage.
- `sequence` : Une suite en cours : ses tokens, ses filtres, son tirage, son texte, et quand elle
  s'arrête.
- `settings` : Ce qu'est un réglage du décodage : son aide, ses bornes, qui peut le donner ; le
  registre.
- `simple` : Boucles de génération lisibles : l'oracle, sans cache, et le flux le plus simple, avec
  cache.
- `speculative` : Décodage spéculatif : proposer plusieurs tokens, les vérifier en un seul passage
  du modèle.
- `stopping` : Les textes qui arrêtent la génération, même quand ils commencent au milieu d'un
  token.
- `strategies` : Stratégies de décodage : des fonctions pures, par lots.
- `streaming` : Du flux de tokens au flux de texte, sans jamais montrer un caractère à moitié.
- `trace` : La trace des filtres : pour chaque token produit, ce que chaque étape a gardé, retiré,
  pesé.
"""
