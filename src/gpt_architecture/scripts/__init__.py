"""Les commandes : lire les options, appeler la bibliothèque, afficher."""
