"""Les vocabulaires : comment un texte devient des tokens, et l'inverse.

- `bpe` : Son propre BPE par octets, appris sur un texte (Sennrich et al., 2016 ; Radford et al.,
  2019).
- `characters` : Un token par caractère, comme `shakespeare_char` de nanoGPT (A. Karpathy, 2022).
- `files` : Les fichiers JSON de tokenizers : lus dans des bornes, écrits d'un seul coup.
- `json_file` : Le `tokenizer.json` de Hugging Face : l'écrire, et relire ceux qui sont un BPE par
  octets.
- `marked_text` : Un texte dont on sait qui a écrit chaque caractère : un gabarit, ou une personne.
- `patterns` : Les motifs qui découpent un texte en mots avant tout BPE : celui de GPT-2, celui de
  GPT-4.
- `protocol` : Ce qu'est un tokenizer pour tout le reste, et la vérification d'identifiants commune
  à tous.
- `words` : Tokenizers de mots : `SimpleTokenizerV1` et `SimpleTokenizerV2`, du livre de S. Raschka.
"""
