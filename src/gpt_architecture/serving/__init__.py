"""Servir un modèle : le moteur qui fait avancer les demandes ensemble, et ce qui l'entoure."""
