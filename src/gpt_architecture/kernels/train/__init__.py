"""Le pas d'entraînement fusionné, écrit à la main.

- `block_pass` : Un bloc Transformer, en avant et en arrière, écrit à la main.
- `fused_step` : Le pas d'entraînement fusionné : avant et arrière de GPT-2 écrits à la main, sur
  CPU en fp32.
- `gradients` : Où vont les gradients du pas fusionné.
- `head_loss` : Tête de sortie et entropie croisée, ensemble et par morceaux.
- `keyed_dropout` : Abandon (dropout) à clés : chaque masque est une fonction pure, sans générateur
  ni mémoire.
- `lean` : Le mode économe : AdamW pendant la rétropropagation, aux moments en bf16.
- `reduction_kernels` : Les noyaux de réduction et de mise à jour : softmax, entropie croisée,
  sommes, AdamW.
- `row_kernels` : Les noyaux qui avancent ligne par ligne : embeddings, normes, branches
  résiduelles, GELU.
"""
