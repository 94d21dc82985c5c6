"""L'hygiène d'un corpus : ce qui ne s'apprend pas, se répète ou se trahit en est retiré et compté.

- `batch` : Un lot de documents vu par NumPy : ses mots, ses lignes, leurs empreintes, d'un seul
  tenant.
- `characters` : Les caractères d'un document : forme normale d'Unicode, contrôles, largeur nulle.
- `clean` : La première passe : chaque document seul, nettoyé ou écarté, et ses empreintes.
- `config` : Les réglages de l'hygiène : ce que chaque étape retire d'un corpus, et à partir de quel
  seuil.
- `decide` : Les décisions d'ensemble : doublons, quasi-doublons, lignes et paragraphes qui se
  répètent.
- `effects` : Ce que l'hygiène a retiré : combien, de quelle taille, et quelques exemples de chaque
  sorte.
- `language` : La langue d'un document, sans réseau.
- `minhash` : Les quasi-doublons : une signature MinHash par document, des bandes pour trouver les
  candidats.
- `personal` : Les données personnelles d'un document : e-mails, téléphones, IBAN et NIR, repérés ou
  masqués.
- `prune` : La seconde passe : les décisions d'ensemble appliquées à chaque document.
- `quality` : La qualité d'un document : ce qui distingue un texte suivi d'une liste ou d'un écho.
- `run` : L'hygiène d'un corpus : deux passes, des décisions entre elles, en parallèle, reprises.
- `store` : Les fichiers de travail de l'hygiène : un par tâche et par passe, chacun écrit en entier
  ou pas.
"""
