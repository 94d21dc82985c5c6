"""Un pas de décodage entier, d'un seul appel, sans revenir à Python.

À une séquence, la durée d'un token est celle de la lecture des poids ; tout le reste (normes,
attention, allers et retours avec Python) doit disparaître derrière elle. Le pas est donc un
programme (voir `program`) : l'embedding, de sept à neuf noyaux par bloc, puis la norme finale et
la tête. Avant lui, Python n'écrit que des nombres : les poids viennent de chasser son code des
caches, et chaque appel à PyTorch ou à NumPy y coûterait des dizaines de microsecondes (mesuré).

Sa forme dit comment il multiplie (voir `forms`).

Formes : B séquences, T tokens nouveaux de chacune, M = B·T activations, D largeur, V vocabulaire.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gpt_architecture.config import GPTConfig
from gpt_architecture.core.kv_cache import KVCache
from gpt_architecture.core.machine import Turn
from gpt_architecture.kernels.decode.embedding_kernels import embed_rows_
from gpt_architecture.kernels.decode.forms import Form
from gpt_architecture.kernels.decode.linear_kernels import (
    GELU,
    PLAIN,
    RESIDUAL,
)
from gpt_architecture.kernels.decode.row_adapters import RowAdapters
from gpt_architecture.kernels.decode.step_kernels import (
    QUERIES,
    STATE_BLOCK,
    STATE_HEADER,
    attention_,
)
from gpt_architecture.kernels.decode.weights import KernelMatrix, PackedMatrix
from gpt_architecture.kernels.runtime.program import Program, Words


class DecodeStep:
    """Le pas compilé d'un modèle.

    Args:
        cfg: forme du modèle.
        matrices: poids, par nom de module.
        embedding: ceux des tokens.
        vectors: positions, normes et biais, par nom du `state_dict`.
        form: comment il multiplie ; elle doit convenir à ces matrices.
        turn: tenu le temps d'un passage : il n'y a qu'un jeu de tampons.
        adapted: chaque ligne peut avoir son adaptateur ; un pas qui n'en lit pas n'en coûte rien.
    """

    def __init__(
        self,
        cfg: GPTConfig,
        matrices: Mapping[str, KernelMatrix],
        embedding: PackedMatrix,
        vectors: Mapping[str, Tensor],
        form: Form,
        turn: Turn,
        *,
        adapted: bool = False,
    ) -> None:
        self._turn = turn
        self._cfg, self._matrices, self._vectors = cfg, matrices, vectors
        self._form = form
        height = self.height = form.height
        self._program = Program()
        self._prepared: list[int] = []  # noyaux dont les lots sont les activations
        self._products: list[int] = []
        self._attentions: list[int] = []
        self._inputs: dict[tuple[int, tuple[int, ...]], tuple[Tensor, ...]] = {}  # x préparé
        self._shape = (0, 0, 0)
        self._adapters = RowAdapters(self._program, height) if adapted else None
        self._with_adapters: DecodeStep | None = None
        self._state = Words(STATE_HEADER + STATE_BLOCK * height)
        self._tokens, self._places, self._chosen = (Words(height) for _ in range(3))
        self._table = Words(2)
        self.embed_from_(embedding)
        self._x, self._context, self._branch = torch.zeros(3, height, cfg.emb_dim)
        self._compose()

    def _compose(self) -> None:
        """Écrit le programme."""
        cfg, height = self._cfg, self.height
        qkv = torch.zeros(height, 3 * cfg.emb_dim)
        inner = cfg.inner_width
        self._program.add(
            embed_rows_,
            1,
            *(each.tensor for each in (self._tokens, self._places, self._table)),
            *self._embedding.layout,
            *(self._vectors["pos_emb.weight"], self._x),
        )
        hidden = torch.zeros((inner, height) if self._form.transposed else (height, inner))
        for index in range(cfg.n_layers):
            block = f"trf_blocks.{index}."
            parts = [f"{block}att.W_{name}" for name in ("query", "key", "value")]
            self._product(parts, self._x, qkv, norm=f"{block}norm1")
            arguments = (qkv, self._context, index, cfg.n_heads, self._state.tensor)
            self._attentions.append(self._program.add(attention_, 1, *arguments))
            self._product([f"{block}att.out_proj"], self._context, self._branch, RESIDUAL)
            self._product([f"{block}ff.layers.0"], self._x, hidden, GELU, norm=f"{block}norm2")
            self._product([f"{block}ff.layers.2"], hidden, self._branch, RESIDUAL)
        logits = torch.zeros(1, cfg.vocab_size)  # remplacé à l'appel
        chosen = self._chosen.tensor
        self._product(["out_head"], self._x, logits, norm="final_norm", chosen=chosen)
        self._program.seal()
        self._head_items = self._program.items(self._products[-1])

    def fits(self, rows: int, cache: KVCache) -> bool:
        """Vrai si un passage traite `rows` activations avec ce cache."""
        storage = cache.storage
        fits = rows <= self.height and (self._form.adapts or not any(cache.adapters))
        return fits and storage.dtype is torch.float32 and storage.is_contiguous()

    def embed_from_(self, matrix: PackedMatrix) -> None:
        """Lit l'embedding des tokens dans cette matrice, rangée comme celle d'avant."""
        self._embedding = matrix  # le noyau n'en a que les adresses
        self._table.write([each.data_ptr() for each in matrix.tensors()])
        if self._with_adapters is not None:
            self._with_adapters.embed_from_(matrix)

    def __call__(self, in_idx: Tensor, cache: KVCache, at: Tensor | None) -> Tensor:
        """in_idx (B, T), tokens nouveaux → logits (B, T, V), ou (B, 1, V) avec `at`.

        Le cache reçoit leurs clés et valeurs ; il n'est pas avancé. Plus d'activations que
        `height` sont lues en plusieurs passages.

        Raises:
            IndexError: un rang de `at`, ou un token, n'existe pas.
            ValueError: le cache n'a pas une ligne par séquence, ou n'est pas en fp32, contigu.
        """
        batch, count = in_idx.shape
        if batch != len(cache.lengths):
            raise ValueError(f"{batch} séquences, un cache de {len(cache.lengths)}")
        wanted: Sequence[int] = range(batch * count)
        if at is not None:
            chosen = at.tolist()
            if min(chosen) < 0 or max(chosen) >= count:
                raise IndexError(f"rangs {chosen} pour {count} tokens")
            wanted = [index * count + place for index, place in enumerate(chosen)]
        rows = [token for each in in_idx.tolist() for token in each]
        logits = torch.empty(batch, count if at is None else 1, self._cfg.vocab_size)
        size = -(-len(rows) // max(1, -(-len(rows) // self.height)))  # des passages égaux
        for start in range(0, len(rows), max(1, size)):
            stop = min(start + size, len(rows))
            spans = []
            for index in range(start // count, -(-stop // count)):
                first = max(start, index * count)
                spans.append((index, first % count, min(stop, (index + 1) * count) - first))
            low, high = bisect_left(wanted, start), bisect_left(wanted, stop)
            chosen = [place - start for place in wanted[low:high]]
            self._pass(rows[start:stop], cache, spans, chosen, logits, low)
        return logits

    def ragged(
        self, parts: Sequence[Sequence[int]], cache: KVCache, wanted: Sequence[int]
    ) -> Tensor:
        """Comme l'appel, pour des séquences qui n'ont pas le même nombre de tokens nouveaux.

        Args:
            parts: tokens nouveaux de chaque séquence ; `height` au plus en tout.
            cache: une ligne par séquence ; il n'est pas avancé.
            wanted: (W,), rangs des logits voulus, parts mises bout à bout.

        Returns:
            Logits (W, V).
        """
        logits = torch.empty(len(wanted), self._cfg.vocab_size)
        spans = [(index, 0, len(part)) for index, part in enumerate(parts)]
        self._pass([token for part in parts for token in part], cache, spans, wanted, logits, 0)
        return logits

    def _pass(
        self,
        tokens: Sequence[int],
        cache: KVCache,
        spans: Sequence[tuple[int, int, int]],
        wanted: Sequence[int],
        logits: Tensor,
        first: int,
    ) -> None:
        """Un passage : tokens (M,) → logits (…, V), à partir de leur ligne `first`.

        Args:
            spans: par morceau des tokens, sa séquence, ce qui en est déjà lu, et combien il en a.
            wanted: rangs des logits voulus.
        """
        if not self.fits(len(tokens), cache):
            kind = f"{cache.storage.dtype}".removeprefix("torch.")
            raise ValueError(
                f"{len(tokens)} activations pour un cache en {kind} : {self.height} au plus, et un "
                "cache en fp32, contigu (new_cache)"
            )
        vocabulary = self._cfg.vocab_size
        if tokens and not 0 <= min(tokens) <= max(tokens) < vocabulary:
            found = next(token for token in tokens if not 0 <= token < vocabulary)
            raise IndexError(f"token {found} : le vocabulaire en a {vocabulary}, comptés de 0")
        with self._turn:
            if any(cache.adapters):
                self._with_adapters = self._with_adapters or DecodeStep(
                    self._cfg,
                    self._matrices,
                    self._embedding,
                    self._vectors,
                    self._form,
                    self._turn,
                    adapted=True,
                )
                self._with_adapters._run(tokens, cache, spans, wanted, logits, first)
            else:
                self._run(tokens, cache, spans, wanted, logits, first)

    def _run(
        self,
        tokens: Sequence[int],
        cache: KVCache,
        spans: Sequence[tuple[int, int, int]],
        wanted: Sequence[int],
        logits: Tensor,
        first: int,
    ) -> None:
        """Un passage vérifié, par qui tient le tour ; voir `_pass`."""
        lines, lengths, storage, row = cache.lines, cache.lengths, cache.storage, 0
        places: list[int] = []
        most = min(QUERIES, max((count for _, _, count in spans), default=0))
        state = [storage.data_ptr(), cache.capacity, storage.size(2), most]
        for index, read, count in spans:
            past = lengths[index] + read
            places += range(past, past + count)
            for query in range(0, count, QUERIES):
                state += (lines[index], past, row, query, min(query + QUERIES, count))
            row += count
        self._state.write(state)
        self._tokens.write(tokens)
        self._places.write(places)
        self._chosen.write(wanted)
        self._resize((len(state) - STATE_HEADER) // STATE_BLOCK, len(tokens), len(wanted))
        if self._adapters is not None:
            owners = cache.adapters
            self._adapters.write([owners[index] for index, _, count in spans for _ in range(count)])
        where = logits.data_ptr() + 4 * self._cfg.vocab_size * first
        self._program.set_word_(self._products[-1:], "out", where)
        self._program.run()

    def _resize(self, blocks: int, rows: int, wanted: int) -> None:
        """Dit leur taille aux noyaux, si elle a changé."""
        if self._shape == (blocks, rows, wanted):
            return
        self._shape = (0, 0, 0)  # un fork entre deux mots laisserait l'enfant avec la moitié
        self._program.set_items_([0], rows)  # l'embedding
        self._program.set_items_(self._attentions, blocks * self._cfg.n_heads)
        for phases, size in ((slice(None, -1), rows), (slice(-1, None), wanted)):
            prepared = self._prepared[phases]
            self._program.set_items_(prepared, -(-size // self._form.together))
            if self._form.transposed:
                self._program.set_word_(prepared, "active", size)
            self._program.set_word_(self._products[phases], "active", size)
        self._program.set_items_(self._products[-1:], self._head_items if wanted else 0)
        self._shape = (blocks, rows, wanted)

    def _product(
        self,
        names: Sequence[str],
        x: Tensor,
        out: Tensor,
        mode: int = PLAIN,
        *,
        norm: str | None = None,
        chosen: Tensor | None = None,
    ) -> None:
        """out = norme(x) · [matrices `names` empilées] + biais ; avec RESIDUAL, x du pas += out.

        Args:
            norm: nom de la norme ; None : aucune.
            chosen: lignes de x à lire ; None : toutes.
        """
        inputs = self._prepare(names[0], x, norm, chosen)
        delta = self._delta(names, x, norm)
        matrices = [self._matrices[name] for name in names]
        tensors = list(zip(*(matrix.tensors() for matrix in matrices), strict=True))
        weights, *scales = (torch.tensor([t.data_ptr() for t in each]) for each in tensors)
        biases = [self._vectors[key] for name in names if (key := f"{name}.bias") in self._vectors]
        rows = matrices[0].shape[0]
        block = self._form.block(rows, len(names))
        numbers: tuple[int, ...] = (*matrices[0].numbers, *self._form.numbers)
        phase = self._program.add(
            self._form.multiply,
            len(names) * -(-rows // block),
            *(0, inputs[0], weights, rows, block),
            torch.cat(biases) if biases else torch.empty(0),
            *(mode, out, self._x if mode == RESIDUAL else torch.empty(0, 0)),
            *numbers,
            *scales,
            *inputs[1:],
            *delta,
        )
        self._products.append(phase)

    def _delta(self, names: Sequence[str], x: Tensor, norm: str | None) -> tuple[Tensor, ...]:
        """L'adaptateur de chaque activation, et ce qu'il ajoute à ce produit, si la forme le lit.

        La tête n'en a pas.
        """
        if not self._form.adapts:
            return ()
        if self._adapters is None or names[0] == "out_head":
            return torch.empty(0, dtype=torch.int64), torch.empty(0, 0)
        return self._adapters.before(names, self._matrices[names[0]].shape[0], x, *self._norm(norm))

    def _norm(self, name: str | None) -> tuple[Tensor, Tensor]:
        """Gain et décalage d'une norme ; vides s'il n'y en a pas."""
        if name is None:
            return torch.empty(0), torch.empty(0)
        return self._vectors[f"{name}.scale"], self._vectors[f"{name}.shift"]

    def _prepare(
        self, name: str, x: Tensor, norm: str | None, chosen: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Ajoute, s'il le faut, le noyau qui prépare x pour la matrice `name` ; rend sa sortie."""
        matrix, width = self._matrices[name], x.size(1)
        gain, shift = self._norm(norm)
        if chosen is None:
            chosen = torch.empty(0, dtype=torch.int64)
        is_ready = self._form.transposed and name.endswith("ff.layers.2")  # son x l'est déjà
        if is_ready or (norm is None and not self._form.always):
            return (x,)
        outputs, numbers = self._form.buffers(matrix, width)
        outputs = self._inputs.setdefault((width, numbers), outputs)
        prepare = self._form.prepare
        self._prepared.append(
            self._program.add(prepare, 1, x, gain, shift, chosen, *outputs, *numbers)
        )
        return outputs
