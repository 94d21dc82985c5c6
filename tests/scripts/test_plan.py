"""La commande plan : ce qu'elle écrit, que train prend tel quel, et ses refus."""

import json
import tomllib
from pathlib import Path

import pytest
from shard_helpers import write_folder

from gpt_architecture.api.plans import TITLE
from gpt_architecture.data.tokenizer import get_tokenizer
from gpt_architecture.formats.model_file import read_model
from gpt_architecture.storage import sealed, sealed_text

SHORT = ("--hours", "0.01", "--minutes", "0.05", "--tokenizer", "bpe-300", "--device", "cpu")
STORY = "la-lampe-du-passeur"


@pytest.mark.slow
def test_a_plan_then_its_training(cli):
    """Le fichier écrit s'entraîne tel quel ; relancé, le plan ne refait rien."""
    outcome = cli("plan", STORY, *SHORT, "--json", "--price-per-hour", "2", "--watts", "100")
    assert outcome.code == 0, outcome.err
    assert "Essais prévus" in outcome.err
    found = json.loads(outcome.out)
    best = found["best"]
    assert best["low"] < best["loss"] < best["high"]
    assert best["cost"] == pytest.approx(2 * best["seconds"] / 3600)
    assert best["kwh"] == pytest.approx(0.1 * best["seconds"] / 3600)
    assert found["alternatives"]
    options = tomllib.loads(Path("plan.toml").read_text(encoding="utf-8"))["train"]
    assert options == found["settings"]
    assert options["max_steps"] == best["steps"]

    kept = Path("plan-essais/essais.jsonl").read_bytes()
    again = cli("plan", STORY, *SHORT)
    assert again.code == 0, again.err
    assert Path("plan-essais/essais.jsonl").read_bytes() == kept
    assert "bits par octet attendus" in again.out
    assert "gpt-architecture train --config plan.toml" in again.out

    trained = cli("train", "--config", "plan.toml", "--max-steps", "3", "--output-dir", "m")
    assert trained.code == 0, trained.err
    config = read_model("m/gpt-model.pt").config
    assert config.num_parameters() == best["parameters"]


class TestRefusals:
    def test_no_hours(self, cli):
        cli("plan", STORY).check_one_line_error(2, "--hours", "--hours 4")

    def test_no_text(self, cli):
        cli("plan", "--hours", "1").check_one_line_error(2, "aucun texte")

    @pytest.mark.parametrize("hours", ["0", "-2", "nan", "1e9"])
    def test_hours_without_sense(self, cli, hours):
        cli("plan", STORY, f"--hours={hours}").check_one_line_error(2, "--hours")

    def test_an_absent_text(self, cli):
        cli("plan", "absent.txt", "--hours", "1").check_one_line_error(1, "absent.txt")
        assert not Path("plan.toml").exists()

    def test_a_text_too_short(self, cli, tmp_path):
        text = tmp_path / "court.txt"
        text.write_text("Quelques mots. " * 20, encoding="utf-8")
        command = ("plan", text, "--hours", "1", "--tokenizer", "char")
        cli(*command).check_one_line_error(1, "texte trop court", "au moins 2048")

    def test_a_file_of_another(self, cli):
        Path("plan.toml").write_text("[train]\n", encoding="utf-8")
        cli("plan", STORY, *SHORT).check_one_line_error(1, "plan.toml", "--out", "--force")
        assert Path("plan.toml").read_text(encoding="utf-8") == "[train]\n"

    def test_a_plan_someone_has_changed(self, cli):
        """Un fichier de `plan` se remplace, sauf si quelqu'un l'a retouché depuis."""
        text = sealed(f"{TITLE} : essai.\n[train]\nmax_steps = 9\n")
        for changed in (text.replace("9", "8"), text + "# ma note\n"):
            Path("plan.toml").write_text(changed, encoding="utf-8")
            cli("plan", STORY, *SHORT).check_one_line_error(1, "plan.toml", "--force")
            assert Path("plan.toml").read_text(encoding="utf-8") == changed
        assert sealed_text(TITLE)(text.encode(), text.encode())

    def test_the_settings_and_the_json_in_one_file(self, cli):
        outcome = cli("plan", STORY, *SHORT, "--out", "x", "--json-file", "./x")
        outcome.check_one_line_error(1, "nomment le même fichier", "--out", "--json-file")
        assert not Path("x").exists()

    @pytest.mark.parametrize("out", [".", "/", ""])
    def test_settings_that_are_a_folder(self, cli, out):
        outcome = cli("plan", STORY, *SHORT, f"--out={out}")
        outcome.check_one_line_error(1, "est un dossier", "--out")

    def test_hours_given_twice(self, cli):
        outcome = cli("plan", STORY, "--hours", "2", "--heures", "4")
        outcome.check_one_line_error(2, "deux fois", "--hours", "--heures")

    def test_a_path_that_settings_cannot_hold(self, cli):
        Path("\udcff.txt").write_text("x", encoding="utf-8")
        cli("plan", "\udcff.txt", *SHORT).check_one_line_error(2, "UTF-8", "renommez")

    def test_a_negative_price(self, cli):
        outcome = cli("plan", STORY, "--hours", "1", "--price-per-hour=-1")
        outcome.check_one_line_error(2, "--price-per-hour")


def test_both_spellings_of_hours(cli):
    cli("plan", "absent.txt", "--heures", "1").check_one_line_error(1, "absent.txt")


@pytest.mark.parametrize("tokenizer", ["char", "bpe-512", "gpt2"])
def test_shards_of_another_tokenizer_are_refused(cli, tokenizer):
    own = get_tokenizer("char", text="abcd")
    ids = own.encode("abcd" * 900)
    folder = Path("d")
    write_folder(
        folder, {"train": [ids], "val": [ids]}, vocab_size=own.vocab_size, tokenizer=own.to_dict()
    )
    command = ("plan", folder, "--hours", "0.01", "--tokenizer", tokenizer)
    cli(*command).check_one_line_error(2, "le tokenizer qui a codé ces fragments")
    assert not Path("plan.toml").exists()
