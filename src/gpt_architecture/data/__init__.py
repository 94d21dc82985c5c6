"""Le texte : d'où il vient, comment il devient des tokens, comment il devient des lots."""
