"""La porte du service : connexions, clés, quotas, journal, arrêt.

- `access` : Qui peut appeler le service, et combien : clés, quotas, pages web d'ailleurs.
- `exchange` : Une requête HTTP, de son entrée à sa fin : son nom, qui la fait, ce qu'elle coûte.
- `loading` : Répondre avant que le modèle soit chargé : 503, et l'application dès qu'elle existe.
- `middleware` : Ce que toute requête HTTP traverse avant les routes : origine, clé, place, corps,
  méthode.
- `observer` : Ce qui reste d'une requête HTTP finie : ses compteurs, et une ligne au journal.
- `server` : Le serveur HTTP : uvicorn, ses connexions bornées, son arrêt en douceur.
- `strict_json` : JSON à la lettre : ni NaN, ni infini, ni demi-caractère, ni nombre ou imbrication
  sans fin.
"""
