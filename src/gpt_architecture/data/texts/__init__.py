"""Les textes : d'où ils viennent, comment ils se lisent, se nettoient et se répartissent.

- `chat` : Les conversations : messages vérifiés, gabarit, texte que le modèle lit.
- `chat_records` : Un enregistrement de dialogue, quelle que soit sa forme : ses messages, aux noms
  d'OpenAI.
- `chat_sandbox` : Le bac à sable d'un gabarit de conversation : du Jinja venu d'ailleurs, dont tout
  est borné.
- `conversations` : Des conversations en JSON ou en JSONL, et ce qu'un modèle en apprend : les
  réponses.
- `corpus` : D'où vient le texte : fichiers, dossiers, ou corpus connus par leur nom.
- `documents` : Un document : nettoyé, rangé dans une part, coupé en morceaux que le tokenizer
  avale.
- `hub` : Les jeux de données de Hugging Face, par leur nom.
- `ingest` : Les sources d'un corpus : tout ce qui se lit, reconnu par son contenu et son extension.
- `installed` : De la prose française que des paquets Debian installent.
- `labelled` : Des textes étiquetés : CSV, TSV, JSON, JSONL ou Parquet, une rangée par exemple.
- `licences` : Ce qu'on sait d'un texte par son nom ou son empreinte : titre, licence, langue.
- `preferences` : Des paires de réponses à une même question, l'une préférée à l'autre, en JSON ou
  en JSONL.
- `readers/` : Les lecteurs : un fichier par famille de formats, qui s'y inscrit lui-même.
- `recipes` : Des textes du domaine public, épinglés : adresse, taille, empreinte et licence de
  chacun.
- `shares` : La part d'une tâche parmi plusieurs machines : une plage pure de (source, bloc).
- `source_texts` : Les documents des sources, par morceaux et une seule fois : de quoi apprendre un
  vocabulaire.
"""
