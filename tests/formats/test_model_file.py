"""Le fichier de modèle : écrit entier ou pas du tout, lu sans rien exécuter."""

import io
import os
import pickle
import stat
import zipfile
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest
import torch

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.model import GPTModel
from gpt_architecture.errors import ModelFileError, OutputError
from gpt_architecture.formats.model_file import (
    FORMAT,
    VERSION,
    ModelFile,
    read_model,
    save_model,
    write_atomically,
)
from gpt_architecture.formats.tensor_files import refusals

BOOK = GPTConfig(vocab_size=61, context_length=16, emb_dim=24, n_heads=3, n_layers=2, drop_rate=0.1)
GPT2 = replace(BOOK, qkv_bias=True, tie_weights=True)
TOKENIZER = {"name": "simple-v2", "vocab": ["a", "é", "<|endoftext|>", "<|unk|>"]}
METADATA = {"corpus": "La lampe", "losses": [3.5, 1.25], "seed": 123, "best": None, "done": True}
each_mode = pytest.mark.parametrize(
    "config", [pytest.param(BOOK, id="livre"), pytest.param(GPT2, id="gpt2")]
)


def build(config=BOOK, seed=0):
    """Modèle en évaluation aux poids d'une graine."""
    torch.manual_seed(seed)
    return GPTModel(config).eval()


def payload(**changes):
    """Contenu d'un fichier valable, à gâter."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "config": BOOK.to_dict(),
        "tokenizer": dict(TOKENIZER),
        "metadata": dict(METADATA),
        "state_dict": build().state_dict(),
    } | changes


def write_payload(path, content, **options):
    """Écrit un contenu quelconque comme le ferait un tiers."""
    torch.save(content, path, **options)
    return path


def refused(path):
    """L'erreur de lecture de `path`, qui doit être une ModelFileError d'une ligne."""
    with pytest.raises(ModelFileError) as caught:
        read_model(path).build()
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 1
    return message


@pytest.fixture
def path(tmp_path):
    """Où écrire, dans un dossier qui ne contient rien d'autre."""
    folder = tmp_path / "modèle"
    folder.mkdir()
    return folder / "gpt-model.pt"


@pytest.fixture
def saved(path):
    """Un fichier valable."""
    save_model(path, build(), BOOK, tokenizer=TOKENIZER, metadata=METADATA)
    return path


class TestRoundTrip:
    @each_mode
    def test_everything_comes_back(self, path, config):
        model = build(config)
        save_model(path, model, config, tokenizer=TOKENIZER, metadata=METADATA)
        content = read_model(path)
        assert content.config == config
        assert content.tokenizer == TOKENIZER
        assert content.metadata == METADATA
        again = content.build()
        torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)
        idx = torch.arange(8)[None]
        assert torch.equal(again(idx), model(idx))
        assert not again.training

    def test_tied_weights_stay_tied_and_are_stored_once(self, path):
        wide = replace(GPT2, vocab_size=5000)
        save_model(path, build(wide), wide, tokenizer=TOKENIZER)
        matrix = wide.vocab_size * wide.emb_dim * 4
        assert path.stat().st_size < wide.num_parameters() * 4 + matrix // 2
        model = read_model(path).build()
        assert model.out_head.weight is model.tok_emb.weight
        assert model.num_parameters() == wide.num_parameters()

    def test_untied_weights_stay_apart(self, saved):
        model = read_model(saved).build()
        assert model.out_head.weight is not model.tok_emb.weight
        assert model.num_parameters() == BOOK.num_parameters()

    def test_building_draws_nothing_and_copies_nothing(self, saved):
        content = read_model(saved)
        state = torch.get_rng_state()
        model = content.build("cpu")
        assert torch.equal(torch.get_rng_state(), state)
        for name, parameter in model.named_parameters():
            assert parameter.data_ptr() == content.state_dict[name].data_ptr(), name

    def test_a_read_model_can_be_trained_and_saved_over_its_own_file(self, saved):
        """Les poids sont projetés depuis le fichier : les changer ne doit pas l'abîmer."""
        original = saved.read_bytes()
        model = read_model(saved).build().train()
        model(torch.arange(8)[None]).logsumexp(-1).sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.sub_(0.1 * parameter.grad)
        assert saved.read_bytes() == original
        save_model(saved, model, BOOK, tokenizer=TOKENIZER)
        again = read_model(saved).build()
        torch.testing.assert_close(again.state_dict(), model.state_dict(), rtol=0, atol=0)

    def test_metadata_is_optional(self, path):
        save_model(path, build(), BOOK, tokenizer=TOKENIZER)
        assert read_model(path).metadata == {}

    def test_missing_folders_are_created(self, tmp_path):
        path = tmp_path / "un" / "deux" / "gpt-model.pt"
        save_model(str(path), build(), BOOK, tokenizer=TOKENIZER)
        assert read_model(str(path)).config == BOOK

    def test_is_readable_with_weights_only(self, saved):
        content = torch.load(saved, weights_only=True)
        assert (content["format"], content["version"]) == ("gpt-architecture/model", 1)

    def test_stored_masks_of_the_book_are_ignored(self):
        model = build()
        masks = {f"trf_blocks.{n}.att.mask": torch.ones(16, 16).triu(1) for n in range(2)}
        content = ModelFile(config=BOOK, state_dict=model.state_dict() | masks, tokenizer=TOKENIZER)
        torch.testing.assert_close(content.build().state_dict(), model.state_dict())


class TestWriting:
    @pytest.mark.parametrize(
        "error",
        [
            pytest.param(OSError(28, "No space left on device"), id="disque-plein"),
            pytest.param(RuntimeError("PytorchStreamWriter failed\nwriting file"), id="torch"),
        ],
    )
    def test_failure_midway_leaves_the_previous_file(self, saved, monkeypatch, error):
        before = saved.read_bytes()

        def half_save(content, target):
            Path(target).write_bytes(b"abc")
            raise error

        monkeypatch.setattr(torch, "save", half_save)
        with pytest.raises(OutputError) as caught:
            save_model(saved, build(seed=1), BOOK, tokenizer=TOKENIZER)
        assert "\n" not in str(caught.value)
        assert str(saved) in str(caught.value)
        assert saved.read_bytes() == before
        assert list(saved.parent.iterdir()) == [saved]

    @pytest.mark.parametrize("kind", [KeyboardInterrupt, pickle.PicklingError])
    def test_any_other_interruption_passes_and_leaves_the_previous_file(
        self, saved, monkeypatch, kind
    ):
        before = saved.read_bytes()

        def interrupted(content, target):
            Path(target).write_bytes(b"abc")
            raise kind

        monkeypatch.setattr(torch, "save", interrupted)
        with pytest.raises(kind):
            save_model(saved, build(seed=1), BOOK, tokenizer=TOKENIZER)
        assert saved.read_bytes() == before
        assert list(saved.parent.iterdir()) == [saved]

    @pytest.mark.parametrize("step", ["fsync", "replace"])
    def test_failure_after_writing_leaves_the_previous_file(self, saved, monkeypatch, step):
        before = saved.read_bytes()

        def fail(*_):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[step], fail)
        with pytest.raises(OutputError, match="Input/output error"):
            save_model(saved, build(seed=1), BOOK, tokenizer=TOKENIZER)
        assert saved.read_bytes() == before
        assert list(saved.parent.iterdir()) == [saved]

    def test_file_is_flushed_before_it_takes_its_name(self, path, monkeypatch):
        events = []
        fsync, rename = os.fsync, Path.replace
        monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), fsync(fd)))
        monkeypatch.setattr(
            Path, "replace", lambda self, to: (events.append("replace"), rename(self, to))
        )
        write_atomically(path, lambda temporary: temporary.write_text("x"))
        assert events[:2] == ["fsync", "replace"]
        assert path.read_text() == "x"

    @pytest.mark.parametrize(
        ("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)], ids=oct
    )
    def test_mode_follows_the_umask(self, path, umask, mode):
        previous = os.umask(umask)
        try:
            save_model(path, build(), BOOK, tokenizer=TOKENIZER)
            assert os.umask(umask) == umask  # l'écriture l'a rendu comme elle l'a trouvé
        finally:
            os.umask(previous)
        assert stat.S_IMODE(path.stat().st_mode) == mode

    def test_overwrites(self, saved):
        save_model(saved, build(GPT2), GPT2, tokenizer=TOKENIZER)
        assert read_model(saved).config == GPT2
        assert list(saved.parent.iterdir()) == [saved]

    def test_parent_that_is_a_file(self, tmp_path):
        (tmp_path / "fichier").write_text("")
        with pytest.raises(OutputError, match="fichier") as caught:
            save_model(tmp_path / "fichier" / "m.pt", build(), BOOK, tokenizer=TOKENIZER)
        assert "\n" not in str(caught.value)

    def test_what_is_not_a_file_is_not_replaced(self, tmp_path):
        """Renommer par-dessus /dev/null, ou un tube, le supprimerait."""
        pipe = tmp_path / "tube"
        os.mkfifo(pipe)
        with pytest.raises(OutputError, match="tube"):
            write_atomically(str(pipe), lambda path: path.write_text("x"))
        assert pipe.is_fifo()

    def test_target_that_is_a_folder(self, path):
        path.mkdir()
        with pytest.raises(OutputError):
            save_model(path, build(), BOOK, tokenizer=TOKENIZER)
        assert list(path.parent.iterdir()) == [path]

    @pytest.mark.skipif(
        not hasattr(os, "geteuid") or os.geteuid() == 0,
        reason="root (ou Windows) écrit aussi dans un dossier en lecture seule",
    )
    def test_read_only_folder(self, path):
        path.parent.chmod(0o500)
        try:
            with pytest.raises(OutputError, match=r"gpt-model\.pt"):
                save_model(path, build(), BOOK, tokenizer=TOKENIZER)
        finally:
            path.parent.chmod(0o700)
        assert list(path.parent.iterdir()) == []


class TestDamagedFiles:
    def test_missing(self, path):
        assert str(path) in refused(path)

    def test_folder(self, tmp_path):
        assert str(tmp_path) in refused(tmp_path)

    @pytest.mark.parametrize("fraction", [0.01, 0.25, 0.5, 0.75, 0.9, 0.99])
    def test_truncated(self, saved, fraction):
        data = saved.read_bytes()
        saved.write_bytes(data[: int(len(data) * fraction)])
        assert str(saved) in refused(saved)

    @pytest.mark.parametrize("missing", [1, 2, 20])
    def test_truncated_at_the_very_end(self, saved, missing):
        saved.write_bytes(saved.read_bytes()[:-missing])
        assert str(saved) in refused(saved)

    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(b"", id="vide"),
            pytest.param(b"\n", id="un-octet"),
            pytest.param(bytes(range(256)) * 40, id="octets-quelconques"),
            pytest.param(b"".join(sha256(bytes([i])).digest() for i in range(200)), id="hasard"),
            pytest.param(b"Bonjour, ceci est un texte.\n" * 50, id="texte"),
            pytest.param(b"PK\x05\x06" + bytes(18), id="zip-vide"),
            pytest.param(b"PK\x03\x04" + bytes(200), id="zip-sans-index"),
            pytest.param(pickle.dumps({"format": FORMAT}), id="pickle-nu"),
        ],
    )
    def test_not_a_model(self, path, data):
        path.write_bytes(data)
        assert str(path) in refused(path)

    @pytest.mark.parametrize(
        "opcodes",
        [
            pytest.param(b"\x80\x02.", id="IndexError-pile-vide"),
            pytest.param(b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n)R.", id="TypeError"),
            pytest.param(
                b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n()K\x00))\x89)tR.",
                id="AttributeError",
            ),
            pytest.param(b"\x80\x02h\x07.", id="KeyError-memo"),
            pytest.param(b"\x80\x02X\x02\x00\x00\x00\xff\xfe.", id="UnicodeDecodeError"),
            pytest.param(b"\x80\x02", id="fin-brutale"),
            pytest.param(b"\x80\x02\xff.", id="code-inconnu"),
        ],
    )
    def test_damaged_content_in_a_sound_archive(self, saved, opcodes):
        """L'archive est saine, la description des tenseurs ne l'est plus."""
        with zipfile.ZipFile(saved) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in parts.items():
                archive.writestr(name, opcodes if name.endswith("/data.pkl") else data)
        saved.write_bytes(buffer.getvalue())
        assert str(saved) in refused(saved)

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param({}, id="vide"),
            pytest.param({"weight": torch.zeros(3)}, id="poids-d-autrui"),
            pytest.param(build().state_dict(), id="state_dict-nu"),
            pytest.param([1, 2, 3], id="liste"),
            pytest.param(torch.zeros(3), id="tenseur"),
            pytest.param(None, id="rien"),
            pytest.param(payload(format="autre"), id="autre-format"),
        ],
    )
    def test_foreign_content(self, path, content):
        assert "n'est pas un modèle de ce projet" in refused(write_payload(path, content))

    @pytest.mark.parametrize("version", [0, 2, "1", None])
    def test_other_version(self, path, version):
        message = refused(write_payload(path, payload(version=version)))
        assert repr(version) in message
        assert "version 1" in message

    @pytest.mark.parametrize("part", ["config", "tokenizer", "metadata", "state_dict"])
    @pytest.mark.parametrize("value", [None, [], "texte"], ids=repr)
    def test_missing_or_malformed_part(self, path, part, value):
        assert part in refused(write_payload(path, payload(**{part: value})))

    def test_missing_key(self, path):
        content = payload()
        del content["state_dict"]
        assert "state_dict" in refused(write_payload(path, content))

    def test_values_that_are_not_tensors(self, path):
        state = build().state_dict() | {"tok_emb.weight": [1.0]}
        assert "tenseurs nommés" in refused(write_payload(path, payload(state_dict=state)))

    def test_unknown_configuration_key(self, path):
        config = BOOK.to_dict() | {"n_kv_heads": 1}
        assert "n_kv_heads" in refused(write_payload(path, payload(config=config)))

    def test_unknown_configuration_keys_of_mixed_types(self, path):
        config = BOOK.to_dict() | {"n_kv_heads": 1, 7: 1}
        assert "n_kv_heads" in refused(write_payload(path, payload(config=config)))

    @pytest.mark.parametrize(
        ("name", "value"), [("n_layers", 0), ("emb_dim", "24"), ("n_heads", 5), ("drop_rate", 2.0)]
    )
    def test_invalid_configuration_value(self, path, name, value):
        config = BOOK.to_dict() | {name: value}
        assert name in refused(write_payload(path, payload(config=config)))


class TestWeightsAgainstConfiguration:
    @pytest.mark.parametrize(
        ("change", "named"),
        [
            ({"n_layers": 3}, "trf_blocks.2"),
            ({"n_layers": 1}, "trf_blocks.1"),
            ({"vocab_size": 62}, "tok_emb.weight"),
            ({"context_length": 8}, "pos_emb.weight"),
            ({"qkv_bias": True}, "W_query.bias"),
        ],
    )
    def test_mismatch_names_the_weight(self, path, change, named):
        config = BOOK.to_dict() | change
        assert named in refused(write_payload(path, payload(config=config)))

    def test_missing_weight(self, path):
        state = build().state_dict()
        del state["final_norm.scale"]
        assert "final_norm.scale" in refused(write_payload(path, payload(state_dict=state)))

    def test_integer_weights(self, path):
        state = {name: tensor.long() for name, tensor in build().state_dict().items()}
        refused(write_payload(path, payload(state_dict=state)))

    def test_weight_names_that_are_not_text(self, path):
        state = build().state_dict() | {7: torch.zeros(1)}
        refused(write_payload(path, payload(state_dict=state)))

    def test_weights_without_values(self, path):
        state = {name: tensor.to("meta") for name, tensor in build().state_dict().items()}
        refused(write_payload(path, payload(state_dict=state)))

    def test_shape_too_large_for_any_machine(self, path):
        config = BOOK.to_dict() | {"vocab_size": 10**18, "emb_dim": 3 * 10**9}
        refused(write_payload(path, payload(config=config)))


class Trap:
    """Un objet dont la lecture crée un dossier."""

    def __init__(self, target):
        self.target = str(target)

    def __reduce__(self):
        return os.mkdir, (self.target,)


class TestMaliciousFiles:
    @pytest.fixture
    def victim(self, tmp_path):
        return tmp_path / "victime"

    @pytest.mark.parametrize(
        "place",
        [
            pytest.param(lambda trap: trap, id="seul"),
            pytest.param(lambda trap: payload(metadata={"note": trap}), id="metadata"),
            pytest.param(lambda trap: payload() | {"charge": [trap]}, id="en-plus"),
        ],
    )
    @pytest.mark.parametrize("zipped", [True, False], ids=["zip", "ancien"])
    def test_nothing_is_executed(self, path, victim, place, zipped):
        write_payload(path, place(Trap(victim)), _use_new_zipfile_serialization=zipped)
        torch.load(path, weights_only=False)  # témoin : le piège fonctionne
        assert victim.is_dir()
        victim.rmdir()

        message = refused(path)
        assert not victim.exists()
        assert str(path) in message

    def test_refusal_says_that_the_file_is_dangerous(self, path, victim):
        message = refused(write_payload(path, payload(metadata={"note": Trap(victim)})))
        assert "objet Python refusé" in message
        assert not victim.exists()


def test_lack_of_memory_is_not_a_damaged_file(tmp_path):
    with pytest.raises(MemoryError), refusals(tmp_path / "modele", "abîmé", "un modèle"):
        raise MemoryError
