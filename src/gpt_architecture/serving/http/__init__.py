"""La porte du service : connexions, clés, quotas, journal, arrêt.

- `auth` : Clés d'accès : qui a le droit de parler au service.
- `exchange` : Une requête HTTP, de son entrée à sa fin : son nom, qui la fait, ce qu'elle coûte.
- `gate` : Répondre avant que le modèle soit chargé : 503, et l'application dès qu'elle existe.
- `guard` : La porte du service : ce que toute requête HTTP traverse avant les routes.
- `observer` : Ce qui reste d'une requête HTTP finie : ses compteurs, et une ligne au journal.
- `origins` : Les origines de pages web permises (CORS), écrites comme un navigateur les envoie.
- `quotas` : Ce qu'une clé permet : des requêtes et des tokens par minute.
- `rules` : Ce que HTTP et les navigateurs attendent de toute adresse : HEAD comme GET, et CORS.
- `server` : Le serveur HTTP : uvicorn, ses connexions bornées, son arrêt en douceur.
- `strict_json` : JSON à la lettre : ni NaN, ni infini, ni demi-caractère, ni nombre ou imbrication
  sans fin.
- `waiting_page` : La page qu'une personne voit quand le modèle n'est pas là : il se charge, ou il
  s'est arrêté.
"""
