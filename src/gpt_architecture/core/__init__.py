"""Le modèle GPT-2 : attention, couches, cache, initialisation, poids."""
