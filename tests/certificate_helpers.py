"""Des falsifications d'un entraînement certifié : chacune change ses fichiers, comme un faussaire.

« Refaite » : le faussaire recalcule les empreintes de la chaîne après sa retouche.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from gpt_architecture.formats.checkpoint import MANIFEST, STATE, write_checkpoint
from gpt_architecture.formats.model_file import read_model, save_model
from gpt_architecture.storage.chain import CERTIFICATE, Chain, read_chain
from gpt_architecture.training.certificate import checkpoint_digests, learned_sha256
from gpt_architecture.training.checkpoint import read_checkpoint

TEXT, MODEL = "texte.txt", "gpt-model.pt"
OTHER = "0f" * 32


def rechained(links):
    """La chaîne de ces maillons, empreintes refaites."""
    chain = Chain()
    for link in links:
        body = {name: value for name, value in link.items() if name not in ("previous", "sha256")}
        chain.add(body.pop("kind"), **body)
    return chain


def edit_chain(folder, change, *, redo):
    """Retouche les maillons d'un certificat ; `change` les reçoit et rend ceux à écrire."""
    chain = read_chain(folder / CERTIFICATE)
    links = change([dict(each) for each in chain.links])
    (rechained(links) if redo else Chain(links=links)).save(folder / CERTIFICATE)


def places(links, kind):
    return [place for place, link in enumerate(links) if link["kind"] == kind]


def nudged(tensor, place=0):
    """Le tenseur, dont un nombre avance d'un ulp."""
    values = tensor.detach().clone().contiguous()
    flat = values.view(-1)
    place %= flat.numel()
    flat[place] = torch.from_numpy(np.nextafter(flat[place : place + 1].numpy(), np.float32(9)))[0]
    return values


def rewrite_checkpoint(folder, step, *, group=None, place=0, state=lambda values: values):
    """Récrit un point de reprise et le rescelle, un tenseur d'un groupe avancé d'un ulp."""
    path = folder / f"checkpoints/step-{step:06d}"
    found = read_checkpoint(path)
    tensors = {n: load_file(path / f"{n}.safetensors") for n in found.names}
    if group is not None:
        floats = sorted(
            n for n, t in tensors[group].items() if t.dtype == torch.float32 and t.dim()
        )
        name = floats[place % len(floats)]
        tensors[group][name] = nudged(tensors[group][name], place)
    values = state(json.loads((path / STATE).read_text(encoding="utf-8")))
    shutil.rmtree(path)
    write_checkpoint(path, step, tensors, values)
    assert (path / MANIFEST).is_file()


def certify_checkpoint(folder, step):
    """Fait dire au certificat les empreintes que ce point de reprise a maintenant."""
    digests = checkpoint_digests(read_checkpoint(folder / f"checkpoints/step-{step:06d}"))

    def change(links):
        for link in links:
            if link.get("step") == step and link["kind"] != "start":
                link |= {name: value for name, value in digests.items() if name in link}
        return links

    edit_chain(folder, change, redo=True)


def rewrite_model(folder, place):
    """Avance d'un ulp un nombre du modèle ; rend l'empreinte de ses poids."""
    content = read_model(folder / MODEL)
    model = content.build()
    parameters = list(model.parameters())
    with torch.no_grad():
        chosen = parameters[place % len(parameters)]
        chosen.copy_(nudged(chosen, place))
    metadata = dict(content.metadata)
    save_model(
        folder / MODEL, model, content.config, tokenizer=content.tokenizer, metadata=metadata
    )
    return learned_sha256(model)


# --- Les falsifications : (folder, other, place) → elles récrivent `folder` -------------------


def edited_link(folder, _other, place):
    def change(links):
        chosen = links[place % len(links)]
        name = next(n for n in ("loss", "weights", "step") if n in chosen)
        chosen[name] = OTHER if name == "weights" else chosen[name] + 1
        return links

    edit_chain(folder, change, redo=False)


def link_with_its_digest(folder, _other, place):
    def change(links):
        chosen = places(links, "steps")[place]
        links[chosen] = rechained([*links[:chosen], {**links[chosen], "loss": 1.5}]).links[-1]
        return links

    edit_chain(folder, change, redo=False)


def removed_link(folder, _other, place):
    edit_chain(folder, lambda links: links[: place + 1] + links[place + 2 :], redo=False)


def swapped_links(folder, _other, place):
    def change(links):
        links[place], links[place + 1] = links[place + 1], links[place]
        return links

    edit_chain(folder, change, redo=place % 2 == 0)


def cut_tail(folder, _other, place):
    edit_chain(folder, lambda links: links[: -1 - place], redo=False)


def skipped_step(folder, _other, place):
    def change(links):
        del links[places(links, "steps")[place]]
        return links

    edit_chain(folder, change, redo=True)


def skipped_and_renumbered(folder, _other, place):
    """L'étape retirée, les suivantes renumérotées, la dernière inventée."""

    def change(links):
        steps = places(links, "steps")
        for one, two in zip(steps[place:], steps[place + 1 :], strict=False):
            links[one] |= {name: links[two][name] for name in ("batches", "losses", "loss")}
        return links

    edit_chain(folder, change, redo=True)


def other_field(name):
    def forge(folder, _other, place):
        def change(links):
            links[places(links, "steps")[place]][name] = OTHER
            return links

        edit_chain(folder, change, redo=True)

    return forge


def other_weights(folder, _other, place):
    """L'empreinte d'un point de reprise, que le faussaire a retiré."""

    def change(links):
        chosen = links[places(links, "weights")[place]]
        shutil.rmtree(folder / f"checkpoints/step-{chosen['step']:06d}")
        chosen["weights"] = OTHER
        return links

    edit_chain(folder, change, redo=True)


def other_end(folder, _other, _place):
    edit_chain(folder, lambda links: [*links[:-1], {**links[-1], "weights": OTHER}], redo=True)


def edit_metadata(folder, change):
    """Récrit le modèle, ses métadonnées changées."""
    content = read_model(folder / MODEL)
    metadata = change(json.loads(json.dumps(dict(content.metadata))))
    save_model(
        folder / MODEL,
        content.build(),
        content.config,
        tokenizer=content.tokenizer,
        metadata=metadata,
    )


SETTINGS = (("lr", 2e-3), ("seed", 9), ("weight_decay", 0.2), ("beta2", 0.9), ("clip", None))


def changed_setting(folder, _other, place):
    """Un réglage changé dans les options, et là où l'identité le répète, même dans le modèle."""
    name, value = SETTINGS[place]

    def told(identity):
        for group in ("training", "optimizer"):
            if name in identity[group]:
                identity[group][name] = value
        return identity

    def change(links):
        links[0]["options"][name] = value
        links[0]["identity"] = told(links[0]["identity"])
        return links

    edit_chain(folder, change, redo=True)
    edit_metadata(folder, told)


def setting_of_options(folder, _other, place):
    name, value = SETTINGS[place]

    def change(links):
        links[0]["options"][name] = value
        return links

    edit_chain(folder, change, redo=True)


def nudged_checkpoint(folder, _other, place):
    rewrite_checkpoint(folder, 2 + 2 * (place % 5), group="model", place=place)


def nudged_moments(folder, _other, place):
    rewrite_checkpoint(folder, 2 + 2 * (place % 5), group="optimizer", place=place)


def nudged_and_certified(folder, _other, place):
    """Le point de reprise retouché, rescellé, et le certificat refait avec son empreinte."""
    step = 2 + 2 * (place % 5)
    rewrite_checkpoint(folder, step, group="model", place=place)
    certify_checkpoint(folder, step)


def moments_and_certified(folder, _other, place):
    step = 2 + 2 * (place % 5)
    rewrite_checkpoint(folder, step, group="optimizer", place=place)
    certify_checkpoint(folder, step)


def swapped_checkpoint(folder, other, place):
    """Le point de reprise de la même étape d'un autre entraînement."""
    name = f"checkpoints/step-{2 + 2 * place:06d}"
    shutil.rmtree(folder / name)
    shutil.copytree(other / name, folder / name)


def moved_checkpoint(folder, _other, place):
    """Le point de reprise d'une autre étape, sous ce nom-ci."""
    names = [f"step-{2 + 2 * each:06d}" for each in (place, (place + 1) % 5)]
    here, there = (folder / "checkpoints" / name for name in names)
    shutil.rmtree(here)
    shutil.copytree(there, here)


def other_position(folder, _other, place):
    def change(values):
        values["trainer"]["step"] += 1
        return values

    rewrite_checkpoint(folder, 2 + 2 * place, state=change)


def nudged_model(folder, _other, place):
    rewrite_model(folder, place)


def nudged_model_certified(folder, _other, place):
    """Le modèle retouché, et le certificat refait : le dernier point de reprise est retiré."""
    found = rewrite_model(folder, place)

    def change(links):
        last = links[-1]["step"]
        shutil.rmtree(folder / f"checkpoints/step-{last:06d}")
        for link in links[1:]:
            if link.get("step") == last:
                link["weights"] = found
        return links

    edit_chain(folder, change, redo=True)


def other_model(folder, other, _place):
    shutil.copy(other / MODEL, folder / MODEL)


def other_certificate(folder, other, _place):
    shutil.copy(other / CERTIFICATE, folder / CERTIFICATE)


def edited_text(folder, _other, place):
    """Une lettre du texte, à un vingtième près, changée en une autre du même texte."""
    path = folder / TEXT
    text = path.read_text(encoding="utf-8")
    at = place * len(text) // 24
    letter = "e" if text[at] != "e" else "a"
    path.write_text(text[:at] + letter + text[at + 1 :], encoding="utf-8")


def edited_and_certified(folder, _other, place):
    """Le texte retouché, et le certificat comme le modèle disent sa nouvelle empreinte."""
    from gpt_architecture.data.texts.corpus import load_corpus

    edited_text(folder, _other, place)
    found = load_corpus([str(folder / TEXT)]).sha256

    def told(identity):
        identity["data"]["sha256"] = found
        return identity

    def change(links):
        links[0]["identity"] = told(links[0]["identity"])
        return links

    edit_chain(folder, change, redo=True)
    edit_metadata(folder, told)


def shorter_text(folder, _other, place):
    path = folder / TEXT
    text = path.read_text(encoding="utf-8")
    path.write_text(text[: len(text) - 1 - 40 * place], encoding="utf-8")


def resigned(folder, _other, place):
    """Une reprise inventée en arrière : des étapes dites refaites, qui ne le sont pas."""

    def change(links):
        steps = places(links, "steps")
        at = links[steps[place]]["first"]
        resume = {"kind": "resume", "step": at, "weights": OTHER, "moments": OTHER}
        return [*links[: steps[-1] + 1], resume, *links[steps[place] :]]

    edit_chain(folder, change, redo=True)


def other_loss(value):
    """La perte moyenne que l'on lit, changée ; son empreinte, non."""

    def forge(folder, _other, place):
        def change(links):
            links[places(links, "steps")[place]]["loss"] = value
            return links

        edit_chain(folder, change, redo=True)

    return forge


def random_model_elsewhere(folder, _other, place):
    """Le modèle fini tiré au hasard, certifié, et dit d'une autre arithmétique."""
    content = read_model(folder / MODEL)
    model = content.build()
    torch.manual_seed(place)
    with torch.no_grad():
        for each in model.parameters():
            each.normal_(std=0.02)
    metadata = dict(content.metadata)
    save_model(
        folder / MODEL, model, content.config, tokenizer=content.tokenizer, metadata=metadata
    )
    found = learned_sha256(model)

    def change(links):
        links[0]["arithmetic"]["torch"] = "2.0.0"
        last = links[-1]["step"]
        shutil.rmtree(folder / f"checkpoints/step-{last:06d}")
        for link in links[1:]:
            if link.get("step") == last:
                link["weights"] = found
        return links

    edit_chain(folder, change, redo=True)


FORGERIES = (
    *((edited_link, place) for place in range(0, 16, 2)),
    *((link_with_its_digest, place) for place in (0, 4)),
    *((removed_link, place) for place in range(0, 12, 3)),
    *((swapped_links, place) for place in range(1, 9, 2)),
    *((swapped_links, place) for place in (2, 4)),
    *((cut_tail, place) for place in (0, 1, 4)),
    *((skipped_step, place) for place in range(0, 10, 2)),
    *((skipped_and_renumbered, place) for place in (0, 4, 8)),
    *((other_field("batches"), place) for place in (0, 3, 6, 9)),
    *((other_field("losses"), place) for place in (0, 3, 6, 9)),
    *((other_weights, place) for place in (0, 2, 4)),
    (other_end, 0),
    *((changed_setting, place) for place in range(5)),
    *((setting_of_options, place) for place in range(5)),
    *((nudged_checkpoint, place) for place in range(8)),
    *((nudged_moments, place) for place in range(4)),
    *((nudged_and_certified, place) for place in (0, 1, 2, 3)),
    *((moments_and_certified, place) for place in (0, 2)),
    *((swapped_checkpoint, place) for place in range(5)),
    *((moved_checkpoint, place) for place in range(3)),
    *((other_position, place) for place in (0, 3)),
    *((nudged_model, place) for place in range(0, 14, 2)),
    *((nudged_model_certified, place) for place in (0, 5)),
    (other_model, 0),
    (other_certificate, 0),
    *((edited_text, place) for place in range(0, 20, 2)),
    *((edited_and_certified, place) for place in (1, 8, 15)),
    *((shorter_text, place) for place in (0, 2)),
    *((resigned, place) for place in (2, 6)),
    *((other_loss(value), 3) for value in (0.5, None, 10**400)),
    (random_model_elsewhere, 0),
)
"""Plus de cent falsifications, dans un entraînement de dix étapes aux points de reprise gardés."""


def copy_run(run, folder):
    """Une copie d'un entraînement, à falsifier, texte compris."""
    return Path(shutil.copytree(run, folder))
