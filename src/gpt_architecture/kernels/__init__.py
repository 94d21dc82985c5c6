"""Noyaux rapides : le pas d'entraînement fusionné et l'abandon à clés."""
