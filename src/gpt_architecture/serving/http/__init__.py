"""La porte du service : connexions, clés, quotas, journal, arrêt.

- `access` : Qui appelle le service, et combien : clés, quotas, pages web d'ailleurs, requête en
  cours.
- `middleware` : Ce que toute requête HTTP traverse avant les routes : origine, clé, place, corps,
  méthode.
- `observer` : Ce qui reste d'une requête HTTP finie : ses compteurs, et une ligne au journal.
- `server` : Le serveur HTTP : ce qu'il répond avant que le modèle soit chargé, ses connexions, son
  arrêt.
- `tracing` : Un span OpenTelemetry par requête, remis à un collecteur (OTLP) sans jamais faire
  attendre.
"""
