"""Du modèle au texte : stratégies de décodage, boucles de génération, flux."""
