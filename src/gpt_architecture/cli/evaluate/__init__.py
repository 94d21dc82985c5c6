"""Ce que la commande `evaluate` a en propre : ses mesures, son étude de ce que récite un modèle."""
