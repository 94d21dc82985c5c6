// Ce que `_ik_llama.py` demande à ik_llama.cpp : ouvrir un modèle, lire des tokens, choisir.
#include <algorithm>
#include <vector>

#include "llama.h"

struct Session {
    llama_model *model;
    llama_context *context;
    int vocabulary;
};

// `rows` séquences de `positions` tokens ; les poids sont rangés pour le processeur au chargement.
extern "C" Session *ik_open(const char *path, int threads, int positions, int rows) {
    llama_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    llama_backend_init();
    auto model_params = llama_model_default_params();
    model_params.repack_tensors = true;
    model_params.use_mmap = false;
    auto *model = llama_model_load_from_file(path, model_params);
    if (!model) return nullptr;
    auto params = llama_context_default_params();
    params.n_ctx = rows * positions;
    params.n_batch = params.n_ubatch = std::max(positions, 512);
    params.n_seq_max = rows;
    params.n_threads = params.n_threads_batch = threads;
    params.flash_attn = false;  // sans effet à ces longueurs, et longue à compiler
    auto *context = llama_init_from_model(model, params);
    if (!context) return nullptr;
    return new Session{model, context, llama_vocab_n_tokens(llama_model_get_vocab(model))};
}

extern "C" void ik_clear(Session *session) { llama_kv_cache_clear(session->context); }

// Lit `count` tokens de chacune des `rows` séquences, à partir de `past` ; `chosen` (rows) reçoit
// le plus probable des suivants. Rend 0, ou l'erreur de llama_decode.
extern "C" int ik_read(Session *session, const int *tokens, int rows, int count, int past,
                       int *chosen) {
    auto batch = llama_batch_init(rows * count, 0, 1);
    batch.n_tokens = rows * count;
    for (int i = 0; i < rows * count; ++i) {
        batch.token[i] = tokens[i];
        batch.pos[i] = past + i % count;
        batch.n_seq_id[i] = 1;
        batch.seq_id[i][0] = i / count;
        batch.logits[i] = i % count == count - 1;
    }
    int status = llama_decode(session->context, batch);
    for (int row = 0; !status && row < rows; ++row) {
        const float *logits = llama_get_logits_ith(session->context, row * count + count - 1);
        chosen[row] = std::max_element(logits, logits + session->vocabulary) - logits;
    }
    llama_batch_free(batch);
    return status;
}
