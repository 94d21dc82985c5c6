"""L'exactitude des paires minimales selon la perte, d'après `benchmarks/french.py --json`."""

from __future__ import annotations

from collections.abc import Sequence

from drawing import Drawing
from speeds import Row

from gpt_architecture.french import decimal, thousands

LEFT, TOP, WIDTH, HEIGHT = 70.0, 84.0, 760.0, 270.0


def french_pairs(rows: Sequence[Row]) -> str:
    """Un point par point de reprise, son intervalle à 95 %, et la corrélation de rang."""
    points = [row for row in rows if "step" in row]
    (correlation,) = (row["ours"] for row in rows if "step" not in row)
    drawing = Drawing(
        900,
        436,
        title="Exactitude des paires minimales selon la perte",
        description=" ; ".join(
            f"étape {row['step']:.0f} : perte {decimal(row['loss'])}, "
            f"{decimal(100 * row['ours'], 1)} % de paires"
            for row in points
        ),
    )
    drawing.text(24, 32, "Paires minimales réussies selon la perte (%)", size=17, bold=True)
    drawing.text(
        24,
        52,
        f"Points de reprise d'un même entraînement, nommés par leur étape ; le trait est "
        f"l'intervalle à 95 %. Corrélation de rang : {decimal(correlation, 3)}.",
        size=12.5,
        color="soft",
    )
    losses = [float(row["loss"]) for row in points]
    worst, best = max(losses), min(losses)
    low = min(50.0, *(5 * (100 * row["low"] // 5) for row in points))
    high = 5 * (max(100 * row["high"] for row in points) // 5 + 1)

    def across(loss: float) -> float:
        return LEFT + 20 + (WIDTH - 40) * (worst - loss) / (worst - best)

    def up(share: float) -> float:
        return float(TOP + HEIGHT * (high - 100 * share) / (high - low))

    for tick in range(round(low), round(high) + 1, 5):
        y = up(tick / 100)
        drawing.path([(LEFT, y), (LEFT + WIDTH, y)], color="rule", width=1)
        drawing.text(LEFT - 8, y + 4, str(tick), size=11.5, color="soft", anchor="end")
    for loss in (worst, (worst + best) / 2, best):
        bottom = TOP + HEIGHT + 18
        drawing.text(
            across(loss), bottom, decimal(loss, 1), size=11.5, color="soft", anchor="middle"
        )
    middle = LEFT + WIDTH / 2
    label = "perte sur la fin inédite du texte (nats par token), de la plus haute à la plus basse"
    drawing.text(middle, TOP + HEIGHT + 38, label, size=12.5, anchor="middle")
    for row in points:
        x = across(row["loss"])
        drawing.path([(x, up(row["low"])), (x, up(row["high"]))], color="blue", width=1.5)
        drawing.circle(x, up(row["ours"]), 3.5, fill="blue", stroke="blue")
        name = thousands(round(row["step"]))
        drawing.text(x, up(row["high"]) - 6, name, size=11, color="soft", anchor="middle")
    machines = ", ".join(dict.fromkeys(str(row["machine"]) for row in rows))
    drawing.text(24, 422, f"Machine : {machines}", size=11.5, color="soft")
    return drawing.svg()
