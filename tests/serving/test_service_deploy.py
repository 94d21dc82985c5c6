"""Les fichiers de déploiement lancent des commandes qui existent, sans droits inutiles."""

import configparser
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from http_helpers import ScriptedEngine, client_of, make_context

import gpt_architecture
from gpt_architecture.cli.app import build_app

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
IMAGE = f"gpt-architecture-serve:{gpt_architecture.__version__}"
TRAINING_IMAGE = f"gpt-architecture-train:{gpt_architecture.__version__}"


def parse(arguments):
    """La vraie ligne de commande lit ces arguments."""
    command, *_ = build_app().parse_args(arguments, exit_on_error=False, print_error=False)
    assert command is not None


def dockerfile(path=ROOT / "Dockerfile"):
    """Le texte d'un Dockerfile, lignes recollées."""
    return path.read_text(encoding="utf-8").replace("\\\n", " ")


def entry_point():
    """Les arguments que l'image de service donne d'abord à la commande."""
    tokens = yaml.safe_load(re.search(r"^ENTRYPOINT (\[.*\])$", dockerfile(), re.MULTILINE)[1])
    assert tokens[0] == "gpt-architecture"
    return tokens[1:]


def manifests(name):
    """Les objets d'un fichier de Kubernetes, par genre."""
    content = (KUBERNETES / name).read_text(encoding="utf-8")
    return {document["kind"]: document for document in yaml.safe_load_all(content)}


@pytest.fixture(scope="module")
def pod():
    """Ce que le Deployment lance."""
    return manifests("serve.yaml")["Deployment"]["spec"]["template"]["spec"]


def test_dockerfile_runs_the_command_without_root():
    """Point d'entrée réel, utilisateur ordinaire, sonde de santé, version épinglée."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    parse(entry_point())
    assert re.search(r"^USER service$", text, re.MULTILINE)
    assert "/health" in re.search(r"HEALTHCHECK(.|\n)*?\]", text)[0]
    pins = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert re.search(r'"(torch==[^"]+)"', text)[1] in pins
    extras = re.search(r'"\.\[([^\]]+)\]"', text)[1].split(",")
    assert {"serve", "fast", "bpe", "contraintes"} <= set(extras)
    for extra in extras:
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


@pytest.mark.parametrize("path", [ROOT / "Dockerfile", KUBERNETES / "Dockerfile"])
def test_images_are_pinned_and_find_what_they_copy(path):
    """Base à la version près, dépendances de requirements.txt, et rien que .dockerignore retire."""
    text = dockerfile(path)
    assert re.search(r"^FROM python:\d+\.\d+\.\d+-slim-\w+$", text, re.MULTILINE)
    for line in re.findall(r"pip install .*", text):
        assert "--constraint requirements.txt" in line or "torch==" in line, line
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for sources in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        for source in sources.split():
            assert (ROOT / source).exists()
            assert f"!{source}" in allowed


def test_each_image_has_one_name():
    """Celui de la construction, de compose et de Kubernetes, à la version du paquet."""
    assert f"-t {IMAGE} " in (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f"-t {TRAINING_IMAGE} " in (KUBERNETES / "Dockerfile").read_text(encoding="utf-8")
    found = set()
    for path in [*(ROOT / "deploy").rglob("*.yaml"), *(ROOT / "docs").rglob("*.md")]:
        found |= set(re.findall(r"gpt-architecture(?:-\w+)?:[\w.]+\b", path.read_text("utf-8")))
    assert {name for name in found if not name.endswith(":8000")} == {IMAGE, TRAINING_IMAGE}


@pytest.mark.process
@pytest.mark.timeout(580)
def test_the_image_compiles_the_kernels_it_serves_with():
    """La commande de l'image importe tous les noyaux, ceux de la génération compris."""
    (code,) = re.findall(r'^RUN python -c "(.*)"$', dockerfile(), re.MULTILINE)
    code += "; import sys; print(*(name for name in sys.modules if '.kernels.' in name))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=570
    )
    folder = Path(gpt_architecture.__file__).parent / "kernels"
    expected = {
        ".".join(["gpt_architecture", "kernels", *path.relative_to(folder).with_suffix("").parts])
        for path in folder.rglob("*.py")
        if path.name != "__init__.py"
    }
    assert expected <= set(done.stdout.split())


def test_kernels_stay_where_the_image_put_them(pod):
    """Copiés dans un dossier inscriptible : un autre processeur y ajoute les siens."""
    text = dockerfile()
    folder = re.search(r"NUMBA_CACHE_DIR=(\S+)", text)[1]
    assert f"install --directory --owner=service {folder}" in text
    assert text.index("USER service") < text.index("RUN python -c")
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
    assert f"noyaux:{folder}" in compose["services"]["modele"]["volumes"]
    assert "noyaux" in compose["volumes"]
    (copy,), (serve,) = pod["initContainers"], pod["containers"]
    assert copy["command"][-2:] == [f"{folder}/.", "/noyaux/"]
    assert {"name": "noyaux", "mountPath": "/noyaux"} in copy["volumeMounts"]
    assert {"name": "noyaux", "mountPath": folder} in serve["volumeMounts"]


def test_kubernetes_runs_the_command(pod):
    """La vraie ligne de commande, le port ouvert, le modèle et les clés là où ils sont montés."""
    (serve,) = pod["containers"]
    assert {each["image"] for each in [serve, *pod["initContainers"]]} == {IMAGE}
    tokens = [*entry_point(), *serve["args"]]
    parse(tokens)
    (port,) = serve["ports"]
    assert f"EXPOSE {port['containerPort']}\n" in dockerfile()
    mounts = {mount["mountPath"] for mount in serve["volumeMounts"]}
    keys = next(each.split("=")[1] for each in tokens if each.startswith("--api-key-file"))
    for path in (tokens[1], keys):
        assert os.path.dirname(path) in mounts  # noqa: PTH120 — un chemin du conteneur
    assert {mount["name"] for mount in serve["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }
    (claim,) = (v["persistentVolumeClaim"] for v in pod["volumes"] if "persistentVolumeClaim" in v)
    declared = manifests("serve.yaml")["PersistentVolumeClaim"]["metadata"]["name"]
    assert claim == {"claimName": declared, "readOnly": True}
    assert serve["env"][0]["valueFrom"]["resourceFieldRef"]["resource"] == "limits.cpu"


def test_kubernetes_probes_exist(pod):
    """Chaque sonde est une route ouverte, que le code de l'état décide."""
    (serve,) = pod["containers"]
    probes = {name: serve[f"{name}Probe"] for name in ("startup", "liveness", "readiness")}
    paths = {name: probe["httpGet"]["path"] for name, probe in probes.items()}
    assert paths == {"startup": "/ready", "liveness": "/live", "readiness": "/ready"}
    assert {probe["httpGet"]["port"] for probe in probes.values()} == {serve["ports"][0]["name"]}
    for state, live in (("ready", 200), ("starting", 200), ("dead", 503)):
        with client_of(make_context(ScriptedEngine(state=state))) as client:
            assert client.get(paths["liveness"]).status_code == live
            assert (client.get(paths["readiness"]).status_code == 200) == (state == "ready")
    # Des noyaux jamais compilés ici prennent deux minutes, un gros modèle autant.
    assert probes["startup"]["periodSeconds"] * probes["startup"]["failureThreshold"] >= 240


def test_kubernetes_lets_requests_finish(pod):
    """Le nœud sort des adresses, puis les requêtes finissent, avant que tout soit coupé."""
    (serve,) = pod["containers"]
    leaving = int(serve["lifecycle"]["preStop"]["exec"]["command"][1])
    options = dict(each.lstrip("-").split("=") for each in serve["args"] if "=" in each)
    drain = int(options["drain-timeout"])
    readiness = serve["readinessProbe"]
    assert leaving >= readiness["periodSeconds"] * readiness["failureThreshold"]
    assert pod["terminationGracePeriodSeconds"] >= leaving + drain + 5


def test_kubernetes_gives_no_needless_right(pod):
    """Utilisateur ordinaire de l'image, système en lecture seule, aucun jeton."""
    uid = int(re.search(r"--uid (\d+)", dockerfile())[1])
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == uid
    assert pod["automountServiceAccountToken"] is False
    for container in (*pod["containers"], *pod["initContainers"]):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]
        assert container["resources"]["requests"]["cpu"]


def test_kubernetes_objects_find_each_other():
    """Service, budget et autoscaling désignent le Deployment, et ses étiquettes."""
    found = manifests("serve.yaml")
    assert set(found) == {"PersistentVolumeClaim", "Deployment", "Service", "PodDisruptionBudget"}
    deployment = found["Deployment"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    assert found["Service"]["spec"]["selector"] == labels
    assert found["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"] == labels
    (port,) = found["Service"]["spec"]["ports"]
    (serve,) = deployment["template"]["spec"]["containers"]
    assert port["targetPort"] == serve["ports"][0]["name"]
    notes = deployment["template"]["metadata"]["annotations"]
    assert notes["prometheus.io/port"] == str(serve["ports"][0]["containerPort"])
    minimum = found["PodDisruptionBudget"]["spec"]["minAvailable"]
    for name in ("hpa.yaml", "hpa-cpu.yaml"):
        (scaler,) = manifests(name).values()
        target = scaler["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) == (
            "Deployment",
            found["Deployment"]["metadata"]["name"],
        )
        assert minimum < scaler["spec"]["minReplicas"] <= deployment["replicas"]


def test_the_autoscaler_reads_a_metric_that_is_exported():
    """Du service à Prometheus, de Prometheus à Kubernetes : le même nom d'un bout à l'autre."""
    (scaler,) = manifests("hpa.yaml").values()
    (metric,) = scaler["spec"]["metrics"]
    adapter = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text("utf-8"))
    (rule,) = adapter["rules"]["custom"]
    assert metric["pods"]["metric"]["name"] == rule["name"]["as"]
    exported = rule["seriesQuery"].split("{")[0]
    assert re.fullmatch(rule["name"]["matches"], exported)
    path = manifests("serve.yaml")["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    with client_of(make_context(ScriptedEngine())) as client:
        assert f"\n{exported}{{" in client.get(path["prometheus.io/path"]).text


def test_reloading_keys_reaches_the_process():
    """`systemctl reload` envoie le signal, et le fichier de clés n'est pas une copie."""
    text = (ROOT / "deploy" / "gpt-architecture.service").read_text(encoding="utf-8")
    assert "ExecReload=/bin/kill -HUP $MAINPID" in text
    assert "LoadCredential" not in text  # une copie faite au départ ne changerait jamais
