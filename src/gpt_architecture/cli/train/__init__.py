"""Ce que la commande `train` a en propre : ses options, son déroulement, ce qu'elle dit."""
