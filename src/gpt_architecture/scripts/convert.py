"""`gpt-architecture convert` : d'un format de poids à un autre."""

from __future__ import annotations

import sys
from pathlib import Path

if __package__ in (None, ""):  # lancé par son chemin : python3 convert.py
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from cyclopts import Group, Parameter

from gpt_architecture.cli.command import CommonOptions
from gpt_architecture.cli.options import NamedModel, ResultOptions, model_and_rest
from gpt_architecture.french import french_number, french_size
from gpt_architecture.storage import json_of

Target = Literal["hf", "gguf", "ollama", "onnx", "transformersjs", "nanogpt", "pt", "peft", "page"]
Dtype = Literal["f32", "f16", "q8_0", "q4_0", "q4_K_M", "q5_K_M", "q6_K"]
Quant = Literal["int8", "int4"]


@Parameter(name="*", group=Group("Conversion", sort_key=1))
@dataclass(frozen=True, kw_only=True)
class ConvertOptions:
    """Vers quoi convertir, et ce que la source ne dit pas d'elle-même."""

    to: Annotated[Target, Parameter(metavar="FORMAT")]
    """Format : dossier de Transformers, GGUF de llama.cpp, dossier d'Ollama (GGUF et Modelfile),
    ONNX, dossier de transformers.js (ONNX fp32 et 8 bits), ckpt.pt de nanoGPT, fichier de ce
    projet, dossier de PEFT pour des adaptateurs, ou page HTML où le modèle s'exécute."""

    dtype: Dtype = "f32"
    """Type des poids écrits : f16 pour hf, gguf et ollama ; pour ces deux derniers, aussi q8_0,
    q6_K, q5_K_M, q4_K_M et q4_0, de 8 à 4 bits par poids."""

    tokenizer: str | None = None
    """Vocabulaire des poids qui n'en portent pas : gpt2, ou le fichier d'un tokenizer."""

    n_heads: int | None = None
    """Nombre de têtes d'attention d'un fichier du livre ; sans lui, une par 64 de la largeur."""

    license: str | None = None
    """Licence à écrire dans la fiche, par exemple mit ou cc-by-4.0."""

    untie: bool = False
    """Écrit la tête de sortie à part de l'embedding, pour des lecteurs qui ne savent pas les
    lier."""

    cache: bool = False
    """Avec onnx, ajoute le cache, le masque et les positions, comme le fait optimum."""

    shard_size: int = 5120
    """Taille maximale d'un fichier de poids hf, en Mio : au-delà, ils sont répartis."""

    quant: Quant | None = None
    """Bits des poids d'une page, int8 sans elle ; avec onnx, int8 quantifie les matrices."""

    text_only: bool = False
    """Avec page, n'y met que ce qui écrit : ni distribution, ni attention."""


_CHECKED = ("to", "dtype", "n_heads", "cache", "shard_size", "quant", "text_only")


def convert(
    source: str | None = None,
    dest: Path | None = None,
    /,
    *,
    model: NamedModel = None,
    options: ConvertOptions,
    results: ResultOptions = ResultOptions(),  # noqa: B008
    common: CommonOptions = CommonOptions(),  # noqa: B008
) -> None:
    """Convertit un modèle ; le format de la source est reconnu à son contenu.

    Args:
        source: Modèle ou point de reprise d'ici, dossier de Transformers, ckpt.pt de nanoGPT,
            .pth du livre de Raschka, GGUF ; hub:gpt2 le télécharge. Pour peft, des adaptateurs
            d'ici.
        dest: Dossier (hf, ollama, transformersjs, peft) ou fichier à écrire, en .html pour page.
    """
    given, dest = model_and_rest(model, source, dest, usage="SOURCE DESTINATION --to FORMAT")
    from gpt_architecture.api import check_conversion
    from gpt_architecture.api import convert as converted

    asked = vars(options)
    checked = {name: asked[name] for name in _CHECKED}
    check_conversion(
        dest,
        (given, options, common),
        **checked,
        force=results.force,
        json_file=(results.json_file, json_of("convert")),
    )
    found = converted(given, dest, **asked, force=results.force, progress=True)
    if not results.emit([found.record], "convert"):
        _report(found.record)


def _report(record: dict[str, Any]) -> None:
    dest, target = record["output"], record["to"]
    print(
        f"{dest} : {french_number(record['parameters'])} paramètres en {record['dtype']}, "
        f"{french_size(record['bytes'])}"
    )
    if target in ("hf", "ollama", "transformersjs", "peft"):
        print("Fichiers : " + ", ".join(record["files"]))
        learned = None if target == "ollama" else record.get("window")  # un GGUF n'a qu'elles
        if learned is not None and learned < record["context_length"]:
            print(
                f"Des {french_number(record['context_length'])} positions, "
                f"{french_number(learned)} ont appris : ne les dépassez pas."
            )
    if target == "nanogpt" and len(record["files"]) > 1:
        from gpt_architecture.interop.nanogpt import DATASET

        meta = Path(dest).resolve().with_name(record["files"][1])
        target_file = f"data/{DATASET}/meta.pkl"
        code = f"pickle.dump(json.load(open({str(meta)!r})), open({target_file!r}, 'wb'))"
        print(f"Vocabulaire, que sample.py veut dans {target_file} ; du dossier de nanoGPT :")
        print(f'  mkdir -p data/{DATASET} && python -c "import json, pickle; {code}"')
    steps = {
        "hf": f'AutoModelForSequenceClassification.from_pretrained("{dest}")'
        if record["judges"]
        else f'AutoModelForCausalLM.from_pretrained("{dest}"), ou : vllm serve {dest}',
        "gguf": f'llama-completion -m {dest} -p "…"',
        "ollama": f"ollama create {Path(dest).name.lower()} -f {Path(dest) / 'Modelfile'}",
        "transformersjs": f'env.localModelPath = "{Path(dest).parent}" ; '
        f'pipeline("text-generation", "{Path(dest).name}", {{ dtype: "q8" }})',
        "onnx": f'onnxruntime.InferenceSession("{dest}")',
        "nanogpt": f"python sample.py --out_dir={Path(dest).parent}, où ce fichier est ckpt.pt",
        "pt": f"gpt-architecture infer --model {dest}",
        "peft": f'PeftModel.from_pretrained(modèle, "{dest}")',
        "page": f"ouvrez {dest} dans un navigateur, sans réseau, ou envoyez-le",
    }
    print(f"Ensuite : {steps[target]}")


if __name__ == "__main__":
    from gpt_architecture.main import main

    main(["convert", *sys.argv[1:]])
