"""Les fichiers de déploiement lancent des commandes qui existent, sans droits inutiles."""

import configparser
import re
import shlex
from pathlib import Path

import pytest
import yaml

from gpt_architecture.main import build_app

ROOT = Path(__file__).resolve().parents[2]


def parse(arguments):
    """La vraie ligne de commande lit ces arguments."""
    command, *_ = build_app().parse_args(arguments, exit_on_error=False, print_error=False)
    assert command is not None


def test_dockerfile_runs_the_command_without_root():
    """Point d'entrée réel, utilisateur ordinaire, sonde de santé, version épinglée."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    entry = re.search(r"^ENTRYPOINT (\[.*\])$", text, re.MULTILINE)[1]
    tokens = yaml.safe_load(entry)
    assert tokens[0] == "gpt-architecture"
    parse(tokens[1:])
    assert re.search(r"^USER service$", text, re.MULTILINE)
    assert "/health" in re.search(r"HEALTHCHECK(.|\n)*?\]", text)[0]
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert re.search(r'"(torch==[^"]+)"', text)[1] in pins
    for extra in re.search(r'"\.\[([^\]]+)\]"', text)[1].split(","):
        assert f"\n{extra} = [" in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_compose_runs_the_command_and_prometheus():
    """Les options sont réelles ; rien n'est ouvert au-delà de cette machine."""
    folder = ROOT / "deploy"
    compose = yaml.safe_load((folder / "compose.yaml").read_text(encoding="utf-8"))
    services = compose["services"]
    parse(["serve", "modele.pt", *services["modele"]["command"]])
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert services["modele"]["cap_drop"] == ["ALL"]
    local = services["prometheus"]["volumes"][0].split(":")[0]
    scrape = yaml.safe_load((folder / local).read_text(encoding="utf-8"))
    assert scrape["scrape_configs"][0]["static_configs"][0]["targets"] == ["modele:8000"]


@pytest.mark.parametrize("option", ["DynamicUser", "NoNewPrivileges", "ProtectHome"])
def test_systemd_unit_runs_the_command(option):
    """L'unité lance une commande réelle, sans droits, et tient 143 pour une réussite."""
    unit = configparser.ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str
    unit.read(ROOT / "deploy" / "gpt-architecture.service", encoding="utf-8")
    tokens = shlex.split(unit["Service"]["ExecStart"].replace("\\\n", " "))
    parse(tokens[1:])
    assert unit["Service"][option] == "yes"
    assert unit["Service"]["SuccessExitStatus"] == "143"
