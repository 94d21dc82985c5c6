"""GPT-2 écrit de zéro en PyTorch : exact, lisible, du texte brut au modèle servi.

    from gpt_architecture import load

Les noms publics, ceux des chapitres du livre de Raschka compris, sont importés à la demande :
`import gpt_architecture` ne charge pas PyTorch.
"""

from os import environ
from sys import modules
from typing import TYPE_CHECKING

from gpt_architecture.config import VERSION
from gpt_architecture.lazy import on_demand

if "OMP_WAIT_POLICY" not in environ and "torch" not in modules:
    # Lu par le moteur OpenMP de PyTorch à son chargement : un thread oisif tourne à vide trente
    # fois moins longtemps (une fraction de milliseconde) avant de rendre le cœur à qui s'en sert.
    # Posé plus tard, il ne changerait que les processus lancés d'ici.
    environ.setdefault("GOMP_SPINCOUNT", "10000")

if TYPE_CHECKING:
    from gpt_architecture.api import (
        GPT,
        Ablation,
        AttentionMap,
        Chat,
        Comparison,
        Completion,
        Conversion,
        Distribution,
        Dossier,
        EmbeddingMap,
        Evaluation,
        Forgetting,
        Heads,
        Inspection,
        Judgements,
        LearningStory,
        Lens,
        Merge,
        Models,
        Neighbours,
        Neuron,
        Plan,
        Prepared,
        Quantization,
        Replay,
        Run,
        Service,
        Shared,
        SourceIndex,
        Sources,
        Table,
        Tokenization,
        Trace,
        Verification,
        Vocabulary,
        chat,
        compare,
        compare_tokenizers,
        convert,
        dossier,
        evaluate,
        find_in_sources,
        follow_learning,
        forget,
        index_sources,
        inspect_model,
        load,
        merge,
        models,
        open_index,
        plan,
        prepare,
        provenance,
        pull,
        push,
        quantize,
        replay,
        serve,
        train,
        train_tokenizer,
        verify,
        visualize,
    )
    from gpt_architecture.config import GPT_CONFIG_124M, GPTConfig, TrainingConfig
    from gpt_architecture.core.attention import MultiHeadAttention
    from gpt_architecture.core.layers import GELU, FeedForward, LayerNorm, TransformerBlock
    from gpt_architecture.core.model import GPTModel
    from gpt_architecture.core.utils import (
        calc_loss_batch,
        calc_loss_loader,
        text_to_token_ids,
        token_ids_to_text,
    )
    from gpt_architecture.data.loader import GPTDatasetV1, create_dataloader_v1
    from gpt_architecture.data.tokenizer import SimpleTokenizerV1, SimpleTokenizerV2, get_tokenizer
    from gpt_architecture.decoding.config import GenerationConfig
    from gpt_architecture.decoding.simple import (
        generate,
        generate_text_simple,
        generate_text_temperature,
        generate_text_top_k,
        generate_text_top_p,
    )
    from gpt_architecture.decoding.strategies import greedy, softmax_avec_temperature, top_k, top_p
    from gpt_architecture.errors import GPTArchitectureError
    from gpt_architecture.interop.book import assign, load_weights_into_gpt
    from gpt_architecture.training.simple import (
        evaluate_model,
        generate_and_print_sample,
        plot_losses,
        train_model_simple,
    )

__version__ = VERSION

_NAMES = {
    "api": "Ablation AttentionMap Chat Comparison Completion Conversion Distribution Dossier "
    "EmbeddingMap Evaluation Forgetting GPT Heads Inspection Judgements LearningStory Lens Merge "
    "Models Neighbours Neuron Plan Prepared Quantization Replay Run Service Shared SourceIndex "
    "Sources Table Tokenization Trace Verification Vocabulary chat compare compare_tokenizers "
    "convert dossier evaluate find_in_sources follow_learning forget index_sources inspect_model "
    "load merge models open_index plan prepare provenance pull push quantize replay serve train "
    "train_tokenizer verify visualize",
    "config": "GPTConfig GPT_CONFIG_124M TrainingConfig",
    "core.attention": "MultiHeadAttention",
    "core.layers": "FeedForward GELU LayerNorm TransformerBlock",
    "core.model": "GPTModel",
    "core.utils": "calc_loss_batch calc_loss_loader text_to_token_ids token_ids_to_text",
    "data.loader": "GPTDatasetV1 create_dataloader_v1",
    "data.tokenizer": "SimpleTokenizerV1 SimpleTokenizerV2 get_tokenizer",
    "decoding.config": "GenerationConfig",
    "decoding.simple": "generate generate_text_simple generate_text_temperature "
    "generate_text_top_k generate_text_top_p",
    "decoding.strategies": "greedy softmax_avec_temperature top_k top_p",
    "errors": "GPTArchitectureError",
    "interop.book": "assign load_weights_into_gpt",
    "training.simple": "evaluate_model generate_and_print_sample plot_losses train_model_simple",
}
__getattr__ = on_demand(__name__, _NAMES)

__all__ = [
    "GELU",
    "GPT",
    "GPT_CONFIG_124M",
    "Ablation",
    "AttentionMap",
    "Chat",
    "Comparison",
    "Completion",
    "Conversion",
    "Distribution",
    "Dossier",
    "EmbeddingMap",
    "Evaluation",
    "FeedForward",
    "Forgetting",
    "GPTArchitectureError",
    "GPTConfig",
    "GPTDatasetV1",
    "GPTModel",
    "GenerationConfig",
    "Heads",
    "Inspection",
    "Judgements",
    "LayerNorm",
    "LearningStory",
    "Lens",
    "Merge",
    "Models",
    "MultiHeadAttention",
    "Neighbours",
    "Neuron",
    "Plan",
    "Prepared",
    "Quantization",
    "Replay",
    "Run",
    "Service",
    "Shared",
    "SimpleTokenizerV1",
    "SimpleTokenizerV2",
    "SourceIndex",
    "Sources",
    "Table",
    "Tokenization",
    "Trace",
    "TrainingConfig",
    "TransformerBlock",
    "Verification",
    "Vocabulary",
    "assign",
    "calc_loss_batch",
    "calc_loss_loader",
    "chat",
    "compare",
    "compare_tokenizers",
    "convert",
    "create_dataloader_v1",
    "dossier",
    "evaluate",
    "evaluate_model",
    "find_in_sources",
    "follow_learning",
    "forget",
    "generate",
    "generate_and_print_sample",
    "generate_text_simple",
    "generate_text_temperature",
    "generate_text_top_k",
    "generate_text_top_p",
    "get_tokenizer",
    "greedy",
    "index_sources",
    "inspect_model",
    "load",
    "load_weights_into_gpt",
    "merge",
    "models",
    "open_index",
    "plan",
    "plot_losses",
    "prepare",
    "provenance",
    "pull",
    "push",
    "quantize",
    "replay",
    "serve",
    "softmax_avec_temperature",
    "text_to_token_ids",
    "token_ids_to_text",
    "top_k",
    "top_p",
    "train",
    "train_model_simple",
    "train_tokenizer",
    "verify",
    "visualize",
]


def __dir__() -> list[str]:
    """Ce que le paquet offre, avant même d'en avoir rien importé."""
    return sorted({*globals(), *__all__})
