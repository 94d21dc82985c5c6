"""L'interface d'Anthropic, pour du texte : une traduction vers celle d'OpenAI.

- `bodies` : Ce qu'un client d'Anthropic envoie, et la conversation que cela demande.
- `messages` : `POST /v1/messages` et `/v1/messages/count_tokens` : les réponses, entières ou en
  flux.
"""
