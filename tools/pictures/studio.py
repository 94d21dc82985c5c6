"""Les captures du studio : la vraie page, servie avec le modèle des captures, dans Chromium.

Une capture n'est pas la même à l'octet près d'un Chromium à l'autre. À côté d'elles,
`donnees/studio.json` dit donc de quoi elles sont faites : la page, le modèle, ce qui y est fait.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import inspect
import io
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import recording

WEB = recording.ROOT / "src" / "gpt_architecture" / "serving" / "studio" / "web"
RECORDED = recording.RECORDED.with_name("studio.json")
WIDTH, HEIGHT, PHONE = 1100, 800, 390
PATIENCE = 60_000  # millisecondes
SECONDS = 180.0
COLORS = 96
"""Couleurs d'une capture : la page en a peu, et le fichier pèse deux fois moins."""
FINISHED = "text=/^Fini/"
Frame = dict[str, float]
"""Ce qui est gardé d'une page : coin et taille, en pixels."""


def names() -> list[str]:
    """Les fichiers des captures."""
    return [f"studio-{name}.png" for name in SCENES]


def inputs() -> str:
    """L'empreinte de ce que montrent les captures : page, modèle, gestes."""
    parts = [path.read_bytes() for path in sorted(WEB.iterdir())]
    gestures = [inspect.getsource(act) for name, (*_, act) in SCENES.items() if name != COPYING]
    parts += [json.dumps([gestures, WIDTH, HEIGHT, PHONE, recording.inputs()]).encode()]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def copying_inputs() -> str:
    """L'empreinte de la vue que montre la capture à part : son modèle demande un roman."""
    parts = [(WEB / name).read_text(encoding="utf-8") for name in ("understand.js", "heads.js")]
    return hashlib.sha256("".join([*parts, inspect.getsource(_inside)]).encode()).hexdigest()


def digest(path: Path) -> str:
    """L'empreinte d'une capture."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def capture(folder: Path, copying: Path | None) -> None:
    """Refait les captures, et note de quoi elles sont faites.

    Args:
        folder: où les écrire.
        copying: dossier d'un entraînement dont une tête recopie (voir le guide « Regarder dans un
            modèle ») ; None : la capture qui le montre reste ce qu'elle est.

    Raises:
        SystemExit: Chromium ou Playwright manque.
    """
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        sys.exit("erreur : playwright n'est pas installé ; lancez « make setup-dev ».")
    chromium = shutil.which("chromium")
    if chromium is None:
        sys.exit("erreur : chromium n'est pas installé, les captures ne sont pas refaites.")
    options = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=options)
        shown = {recording.run_directory(): [name for name in SCENES if name != COPYING]}
        if copying is not None:
            shown[copying] = [COPYING]
        for model, scenes in shown.items():
            with _served(model) as url:
                for name in scenes:
                    width, view, act = SCENES[name]
                    page = browser.new_page(
                        viewport={"width": width, "height": HEIGHT},
                        color_scheme="light",
                        locale="fr-FR",
                    )
                    page.set_default_timeout(PATIENCE)
                    page.goto(f"{url}/studio#{view}")
                    page.wait_for_selector("#facts div")
                    clip: Any = act(page)
                    _save(page.screenshot(full_page=True, clip=clip), folder / f"studio-{name}.png")
                    page.close()
        browser.close()
    known = recording.recorded(RECORDED).get("copying")
    if copying is not None:
        known = {"inputs": copying_inputs(), "model": digest(copying / "gpt-model.pt")}
    made = {name: digest(folder / name) for name in names()}
    text = json.dumps({"inputs": inputs(), "copying": known, "files": made}, indent=1)
    RECORDED.write_text(text + "\n", encoding="utf-8")


@contextlib.contextmanager
def _served(folder: Path) -> Iterator[str]:
    """Le service, son studio et le dossier de l'entraînement, le temps des captures."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gpt_architecture", "serve", str(folder / "gpt-model.pt")]
    command += ["--port", str(port), "--run-directory", str(folder)]
    service = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + SECONDS
        while not _is_ready(port):
            if time.monotonic() > end or service.poll() is not None:
                sys.exit("erreur : le service n'a pas démarré.")
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        service.terminate()
        service.wait()


def _is_ready(port: int) -> bool:
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as link:
        try:
            link.request("GET", "/ready")
            return link.getresponse().status == http.HTTPStatus.OK
        except OSError:
            return False


def _save(shot: bytes, path: Path) -> None:
    """Écrit une capture, en couleurs indexées."""
    from PIL import Image

    image = Image.open(io.BytesIO(shot)).convert("RGB")
    image.quantize(COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name} : {path.stat().st_size // 1024} Kio")


def _workshop(page: Any) -> Frame:
    page.locator("#prompt").fill(recording.PROMPT)
    page.locator("#write-form [name=max_tokens]").fill("40")
    page.locator("#write-form [name=seed]").fill("123")
    page.locator("#write").click()
    page.wait_for_selector(f"#write-status >> {FINISHED}")
    page.locator("#tokens .tok").nth(2).click()
    return _down_to(page, "#candidates")


def _distribution(page: Any) -> Frame:
    page.locator("#next-prompt").fill(recording.STUDIED)
    page.locator("#next-form .primary").click()
    page.wait_for_selector("#bars li")
    page.locator("#s-temperature").fill("0.8")
    page.locator("#s-p").fill("0.9")
    return _down_to(page, "#bars li:nth-child(10)", margin=4)


def _comparison(page: Any) -> Frame:
    page.locator("#compare-prompt").fill(recording.PROMPT)
    page.locator("#compare-form [name=max_tokens]").fill("32")
    page.locator("#compare-form [name=seed]").fill("123")
    page.locator("#compare").click()
    page.wait_for_selector(f"#compare-status >> {FINISHED}")
    return _down_to(page, "#compare-help")


def _attention(page: Any) -> Frame:
    page.locator("#attention-text").fill(f"{recording.STUDIED} coup. Basile leva la lampe")
    page.locator("#attention-form .primary").click()
    page.wait_for_selector("#sentence .tok")
    page.locator("#heads button").nth(2).click()
    page.locator("#sentence .tok").last.click()
    return _down_to(page, "#heads")


def _inside(page: Any) -> Frame:
    page.wait_for_selector("#heads-one h3")
    return _down_to(page, "#part-heads")


def _training(page: Any) -> Frame:
    page.wait_for_selector("#run-loss path")
    return _down_to(page, "#run-loss")


def _down_to(page: Any, selector: str, margin: float = 24) -> Frame:
    """La page jusqu'au bas d'un élément, marge comprise."""
    page.wait_for_timeout(300)  # les transitions de la page
    page.evaluate("scrollTo(0, 0)")
    box = page.locator(selector).bounding_box()
    width = page.viewport_size["width"]
    return {"x": 0, "y": 0, "width": width, "height": box["y"] + box["height"] + margin}


SCENES: dict[str, tuple[int, str, Callable[[Any], Frame]]] = {
    "atelier": (WIDTH, "atelier", _workshop),
    "distribution": (WIDTH, "distribution", _distribution),
    "comparer": (WIDTH, "comparer", _comparison),
    "attention": (WIDTH, "attention", _attention),
    "comprendre": (WIDTH, "comprendre", _inside),
    "telephone": (PHONE, "entrainement", _training),
}
"""Nom de la capture → largeur de la fenêtre, vue, gestes ; un geste rend le cadre à garder."""
COPYING = "comprendre"
"""La capture du modèle dont une tête recopie ; les autres montrent celui des captures."""
