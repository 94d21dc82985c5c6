"""Écrit le jeu d'exemple `messages-fr` : des messages de clients d'une boutique imaginaire.

    python tools/messages.py

Chaque message est fait de morceaux écrits pour ce projet et tirés au sort : il ne vient d'aucun
client, et sa variété est celle de ces morceaux. `messages-fr-test.csv`, à côté, a été écrit à la
main, phrase par phrase, sans eux. Les deux sont CC0.
"""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

ASSETS = Path(__file__).resolve().parents[1] / "src/gpt_architecture/data/assets"
NAME = "messages-fr.csv"
PER_CLASS = 80

OPENINGS = ("", "", "Bonjour, ", "Bonsoir, ", "Bonjour madame, ", "Madame, monsieur, ", "Bjr, ")
GOODS = (
    *("la lampe de chevet", "le grille-pain", "la bouilloire", "le casque", "la montre"),
    *("le vélo pliant", "l'aspirateur", "la cafetière", "l'imprimante", "le clavier"),
    *("la tente", "le sac à dos", "l'enceinte", "le four à raclette", "la perceuse"),
)
DAYS = ("lundi", "mardi", "jeudi", "samedi", "hier", "ce matin", "la semaine dernière")
ENDINGS = ("", "", " Merci.", " Merci d'avance.", " Cordialement.", " Bonne journée.", " Cdt.")
URGENCY = {"": 0, " C'est assez pressé.": 2, " C'est urgent !": 4, " Répondez-moi aujourd'hui.": 3}

PARTS: dict[str, tuple[tuple[str, ...], tuple[str, ...], int]] = {
    "livraison": (
        (
            "je n'ai toujours pas reçu {good}",
            "{good} devait arriver {day}, et rien",
            "le livreur a laissé {good} chez un voisin que je ne connais pas",
            "le suivi n'a pas bougé depuis {day}",
            "mon colis est marqué livré, je n'ai pourtant rien eu",
            "le transporteur est passé {day} pendant mon absence",
            "il manque {good} dans le carton arrivé {day}",
        ),
        (
            "où en est l'envoi ?",
            "pouvez-vous relancer le transporteur ?",
            "quand aurai-je mon paquet ?",
            "je peux changer l'adresse ?",
            "je voudrais passer au point relais.",
        ),
        3,
    ),
    "facturation": (
        (
            "j'ai été débité deux fois pour {good}",
            "le montant prélevé {day} n'est pas celui de la commande",
            "ma facture pour {good} est au mauvais nom",
            "le code de réduction n'a pas été compté sur {good}",
            "je vois deux paiements datés de {day} sur mon relevé",
            "la TVA de {good} manque sur le document",
            "vous m'avez compté des frais que je n'ai pas acceptés",
        ),
        (
            "pouvez-vous m'envoyer une facture corrigée ?",
            "quand serai-je recrédité ?",
            "il me faut ce justificatif pour ma comptabilité.",
            "je demande le détail du calcul.",
            "merci de régulariser mon compte bancaire.",
        ),
        2,
    ),
    "panne": (
        (
            "{good} ne s'allume plus depuis {day}",
            "{good} fait un bruit étrange et chauffe",
            "{good} s'arrête au bout de deux minutes",
            "l'écran est resté noir dès {day}",
            "la batterie ne tient pas une heure",
            "un bouton est resté bloqué sur {good}",
            "{good} sent le brûlé quand je le branche",
        ),
        (
            "que faut-il essayer ?",
            "la garantie joue-t-elle ?",
            "avez-vous un réparateur près de chez moi ?",
            "j'ai pourtant suivi la notice.",
            "faut-il une pièce de rechange ?",
        ),
        4,
    ),
    "retour": (
        (
            "je voudrais renvoyer {good}, qui ne me convient pas",
            "{good} n'est pas de la bonne taille",
            "la couleur reçue {day} n'est pas celle de la photo",
            "je change d'avis pour {good}, encore emballé",
            "je souhaite échanger {good} contre un autre modèle",
            "on m'a offert {good} en double",
            "{good} ne va pas avec ce que j'ai déjà",
        ),
        (
            "comment avoir l'étiquette de renvoi ?",
            "jusqu'à quand puis-je le rapporter ?",
            "le retour est-il gratuit ?",
            "puis-je le rendre en magasin ?",
            "serai-je remboursé ou aurai-je un avoir ?",
        ),
        1,
    ),
    "compte": (
        (
            "je n'arrive plus à me connecter depuis {day}",
            "le lien pour changer mon mot de passe ne marche pas",
            "je veux supprimer mon compte et mes données",
            "mon adresse de courriel a changé {day}",
            "je reçois vos lettres alors que je m'en suis désinscrit",
            "quelqu'un a commandé {good} depuis mon profil",
            "le code reçu par SMS est refusé",
        ),
        (
            "que dois-je faire ?",
            "pouvez-vous réinitialiser mon accès ?",
            "merci de corriger mes coordonnées.",
            "confirmez-moi que c'est fait.",
            "je ne retrouve plus mon identifiant.",
        ),
        2,
    ),
    "indésirable": (
        (
            "vous avez gagné {good}, cliquez vite",
            "votre site perd des clients, nous le mettons en tête des recherches",
            "un héritage vous attend, il ne manque que votre numéro de carte",
            "votre colis est bloqué, réglez 1,95 euro sur ce lien",
            "prêt sans justificatif, réponse dès {day}",
            "doublez vos revenus depuis chez vous",
            "votre compte sera fermé {day} sans confirmation de votre mot de passe",
        ),
        (
            "offre réservée aux cent premiers !",
            "répondez avec vos coordonnées bancaires.",
            "cliquez sur le lien ci-joint.",
            "aucun risque, résultat garanti.",
            "envoyez STOP pour ne plus rien recevoir.",
        ),
        0,
    ),
}


def messages() -> list[tuple[str, str, int]]:
    """Texte, classe et urgence (de 0 à 9) de chaque message ; toujours les mêmes."""
    draw = random.Random(2024)  # noqa: S311 — un jeu d'exemple
    found = dict[str, tuple[str, str, int]]()
    for label, (facts, asks, base) in PARTS.items():
        kept = 0
        while kept < PER_CLASS:
            fact = draw.choice(facts).format(good=draw.choice(GOODS), day=draw.choice(DAYS))
            ask, opening = draw.choice(asks), draw.choice(OPENINGS)
            hurry = draw.choice(tuple(URGENCY))
            extra = draw.choice((0, 0, 0, 1))
            fact = fact if opening else fact[0].upper() + fact[1:]
            asked = draw.choice((f" {ask[0].upper()}{ask[1:]}", "", f" {ask[0].upper()}{ask[1:]}"))
            text = f"{opening}{fact}.{asked}{hurry}{draw.choice(ENDINGS)}".replace("?.", "?")
            text = _typed(text, draw)
            if text in found:
                continue
            urgent = 0 if label == "indésirable" else base + URGENCY[hurry] + extra
            found[text] = (text, label, min(9, urgent))
            kept += 1
    rows = list(found.values())
    draw.shuffle(rows)
    return rows


def _typed(text: str, draw: random.Random) -> str:
    """Le texte, comme il se tape parfois : sans accent, en minuscules, une lettre oubliée."""
    if draw.random() < 0.12:
        text = text.translate(str.maketrans("éèêàùûîôç", "eeeauuioc"))
    if draw.random() < 0.1:
        text = text.lower()
    if draw.random() < 0.15:
        place = draw.randrange(3, len(text) - 2)
        text = text[:place] + text[place + 1 :]
    return text


def written() -> str:
    """Le fichier."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(("texte", "classe", "urgence"))
    writer.writerows(messages())
    return lines.getvalue()


if __name__ == "__main__":
    (ASSETS / NAME).write_text(written(), encoding="utf-8")
