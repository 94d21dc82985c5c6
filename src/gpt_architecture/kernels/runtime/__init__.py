"""Ce sur quoi tournent les noyaux : threads, programmes, IR, tampons.

- `arithmetic` : Petites fonctions des noyaux compilés : exponentielle, GELU, mélangeur, masques.
- `crew` : Combien de threads mènent un programme, d'après ce que la machine leur donne.
- `kernel` : Écrire un noyau compilé, et le lancer sur les threads de PyTorch.
- `matmul` : Les produits de matrices fp32, par la bibliothèque la plus rapide sur ce processeur.
- `program` : Une suite de noyaux rejouée d'un seul appel, par une seule équipe de threads.
- `vector_ir` : De quoi écrire des boucles vectorielles en IR de LLVM, pour les tuiles des noyaux.
- `workspace` : Tampons réemployés d'un pas à l'autre, en grandes pages quand le système en a.
"""
