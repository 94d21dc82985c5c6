"""Les vocabulaires : comment un texte devient des tokens, et l'inverse.

- `bpe` : Son propre BPE par octets, appris sur un texte (Sennrich et al., 2016 ; Radford et al.,
  2019).
- `gpt2` : Le BPE de GPT-2, et ce que sa famille en garde : motifs de découpage, alphabet d'octets.
- `json_file` : Les fichiers JSON de tokenizers : lus dans des bornes, écrits d'un seul coup.
- `marked_text` : Un texte dont on sait qui a écrit chaque caractère : un gabarit, ou une personne.
- `protocol` : Ce qu'est un tokenizer pour tout le reste, et la vérification d'identifiants commune
  à tous.
- `simple` : Les vocabulaires qui se lisent : des mots (`SimpleTokenizerV1` et `V2`), ou des
  caractères.
"""
