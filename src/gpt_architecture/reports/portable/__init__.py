"""Un modèle dans une page : un seul fichier HTML, où il s'exécute, sans réseau.

- `bundle` : Les modules JavaScript de la page, mis bout à bout dans un seul script.
- `page` : La page qui contient un modèle, et l'exécute.
- `payload` : Ce que la page porte : la forme du modèle, son vocabulaire, ses poids entiers.
"""
