"""Échange des poids et des vocabulaires avec les autres bibliothèques."""
