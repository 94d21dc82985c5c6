"""Le même modèle chez nous et dans Transformers, par une copie indépendante du projet."""

import torch

from gpt_architecture.core.model import GPTModel


def random_model(config):
    """Modèle aux poids tous différents de leurs valeurs initiales, normes et biais compris."""
    torch.manual_seed(0)
    model = GPTModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn_like(parameter))
    return model


def to_transformers(model, **options):
    """Le même modèle chez Transformers, par une copie écrite ici, indépendante du projet.

    `options` va à sa configuration.
    """
    import transformers

    cfg = model.cfg
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=cfg.vocab_size,
            n_positions=cfg.context_length,
            n_embd=cfg.emb_dim,
            n_layer=cfg.n_layers,
            n_head=cfg.n_heads,
            tie_word_embeddings=cfg.tie_weights,
            n_inner=cfg.inner_dim,
            activation_function={"gelu_tanh": "gelu_new"}.get(cfg.activation, cfg.activation),
            layer_norm_epsilon=cfg.norm_eps,
            **options,
            bos_token_id=0,
            eos_token_id=0,
            attn_implementation="eager",
        )
    ).eval()
    ours = model.state_dict()
    state = {
        "transformer.wte.weight": ours["tok_emb.weight"],
        "transformer.wpe.weight": ours["pos_emb.weight"],
        "transformer.ln_f.weight": ours["final_norm.scale"],
        "transformer.ln_f.bias": ours["final_norm.shift"],
        "lm_head.weight": ours["out_head.weight"],
    }
    for n in range(cfg.n_layers):
        source, target = f"trf_blocks.{n}", f"transformer.h.{n}"
        names = [f"{source}.att.W_{part}" for part in ("query", "key", "value")]
        zeros = torch.zeros(cfg.emb_dim)
        # Conv1D range ses poids (entrée, sortie) : l'inverse de nn.Linear.
        state[f"{target}.attn.c_attn.weight"] = torch.cat([ours[f"{m}.weight"] for m in names]).T
        state[f"{target}.attn.c_attn.bias"] = torch.cat(
            [ours.get(f"{m}.bias", zeros) for m in names]
        )
        for mine, their in (
            ("att.out_proj", "attn.c_proj"),
            ("ff.layers.0", "mlp.c_fc"),
            ("ff.layers.2", "mlp.c_proj"),
        ):
            state[f"{target}.{their}.weight"] = ours[f"{source}.{mine}.weight"].T
            state[f"{target}.{their}.bias"] = ours[f"{source}.{mine}.bias"]
        for mine, their in (("norm1", "ln_1"), ("norm2", "ln_2")):
            state[f"{target}.{their}.weight"] = ours[f"{source}.{mine}.scale"]
            state[f"{target}.{their}.bias"] = ours[f"{source}.{mine}.shift"]
    theirs.load_state_dict(state, strict=True)
    return theirs
