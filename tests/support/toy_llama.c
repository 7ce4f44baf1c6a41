#include "tests/support/toy_llama.h"

#include "common/model/tokenizer.h"
#include "tests/support/process.h"
#include "tests/support/ty_test.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

toy_llama toy_llama_default(void) {
    return (toy_llama){.n_layer = 2,
                       .n_head = 4,
                       .n_kv_head = 2,
                       .d_head = 8,
                       .d_ff = 64,
                       .context = 64,
                       .seed = 1,
                       .dtype = TY_F32};
}

typedef struct {
    const toy_llama *t;
    ty_gguf_writer *w;
    ty_tokenizer *tok;
    unsigned r;
    bool declare; /* first pass: declare, second: write */
} writer;

static void must(ty_status st, const ty_err *err) {
    if (st != TY_OK) fail_msg("toy model: %s: %s", ty_status_name(st), err->text);
}

static float noise(writer *w) {
    w->r = w->r * 1664525u + 1013904223u;
    return (float)(w->r >> 8) / (float)(1 << 23) - 1.0f;
}

static void tensor(writer *w, const char *name, int rows, int cols) {
    ty_err err = {0};
    int64_t shape[2] = {rows, cols};
    bool vector = rows == 0;
    ty_dtype t = vector ? TY_F32 : w->t->dtype;
    size_t n = (size_t)(vector ? 1 : rows) * (size_t)cols;
    if (w->declare) {
        must(ty_gguf_declare(w->w, name, t, vector ? 1 : 2, vector ? shape + 1 : shape, &err),
             &err);
        return;
    }
    float *x = malloc(n * sizeof(float));
    void *packed = malloc(ty_dtype_bytes(t, n));
    assert_true(x && packed);
    float scale = 1.7f / sqrtf((float)cols) * (w->t->scale != 0 ? w->t->scale : 1.0f);
    for (size_t i = 0; i < n; i++) x[i] = vector ? 1.0f + 0.1f * noise(w) : scale * noise(w);
    ty_dtype_from_f32(t, x, n, packed);
    must(ty_gguf_write(w->w, packed, ty_dtype_bytes(t, n), &err), &err);
    free(x);
    free(packed);
}

static bool is_multiway(const toy_llama *t) {
    return t->architecture && strcmp(t->architecture, "mplug_owl2") == 0;
}

static void layer(writer *w, int l) {
    const toy_llama *t = w->t;
    int D = t->n_head * t->d_head, kv = t->n_kv_head * t->d_head;
    const struct {
        const char *name;
        int rows, cols;
    } all[] = {
        {"attn_norm", 0, D},      {"attn_q", D, D},       {"attn_k", kv, D},
        {"attn_v", kv, D},        {"attn_output", D, D},  {"ffn_norm", 0, D},
        {"ffn_gate", t->d_ff, D}, {"ffn_up", t->d_ff, D}, {"ffn_down", D, t->d_ff - t->short_ff},
        {"vis_attn_norm", 0, D},  {"vis_ffn_norm", 0, D}, {"vis_attn_k", kv, D},
        {"vis_attn_v", kv, D}};
    size_t n = sizeof(all) / sizeof(all[0]) - (is_multiway(t) ? 0 : 4);
    for (size_t i = 0; i < n; i++) {
        char name[64];
        snprintf(name, sizeof(name), "blk.%d.%s.weight", l, all[i].name);
        tensor(w, name, all[i].rows, all[i].cols);
    }
}

static void tensors(writer *w) {
    int D = w->t->n_head * w->t->d_head, V = ty_tokenizer_size(w->tok);
    tensor(w, "token_embd.weight", V, D);
    for (int l = 0; l < w->t->n_layer; l++) layer(w, l);
    tensor(w, "output_norm.weight", 0, D);
    if (!w->t->tied) tensor(w, "output.weight", V, D);
    if (w->t->extra) tensor(w, w->t->extra, 0, D);
}

static void vocabulary(writer *w) {
    ty_err err = {0};
    int n = ty_tokenizer_size(w->tok);
    const char **piece = calloc((size_t)n, sizeof(*piece));
    size_t *len = calloc((size_t)n, sizeof(*len));
    float *score = calloc((size_t)n, sizeof(*score));
    int32_t *type = calloc((size_t)n, sizeof(*type));
    assert_true(piece && len && score && type);
    for (int i = 0; i < n; i++) {
        piece[i] = ty_tokenizer_piece(w->tok, i, &len[i]);
        score[i] = ty_tokenizer_score(w->tok, i);
        type[i] = ty_tokenizer_type(w->tok, i);
    }
    must(ty_gguf_set_str(w->w, "tokenizer.ggml.model", "llama", 5, &err), &err);
    must(ty_gguf_set_strs(w->w, "tokenizer.ggml.tokens", piece, len, n, &err), &err);
    must(ty_gguf_set_f32s(w->w, "tokenizer.ggml.scores", score, n, &err), &err);
    must(ty_gguf_set_i32s(w->w, "tokenizer.ggml.token_type", type, n, &err), &err);
    must(ty_gguf_set_u32(w->w, "tokenizer.ggml.bos_token_id", 1, &err), &err);
    must(ty_gguf_set_u32(w->w, "tokenizer.ggml.eos_token_id", 2, &err), &err);
    must(ty_gguf_set_u32(w->w, "tokenizer.ggml.unknown_token_id", 0, &err), &err);
    free(piece);
    free(len);
    free(score);
    free(type);
}

static void metadata(writer *w) {
    const toy_llama *t = w->t;
    ty_err err = {0};
    const struct {
        const char *key;
        int value;
    } all[] = {{"block_count", t->n_layer},         {"embedding_length", t->n_head * t->d_head},
               {"feed_forward_length", t->d_ff},    {"context_length", t->context},
               {"attention.head_count", t->n_head}, {"attention.head_count_kv", t->n_kv_head}};
    const char *arch = t->architecture ? t->architecture : "llama";
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        must(ty_gguf_set_u32(w->w, test_path("%s.%s", arch, all[i].key), (uint32_t)all[i].value,
                             &err),
             &err);
    must(ty_gguf_set_f32(w->w, test_path("%s.attention.layer_norm_rms_epsilon", arch), 1e-6f, &err),
         &err);
}

void toy_llama_write(const toy_llama *t, const char *path) {
    ty_err err = {0};
    writer w = {.t = t, .r = t->seed, .declare = true};
    must(ty_tokenizer_from_spm(
             &w.tok, test_path("%s/tokenizer/tokenizer-small.model", test_golden_dir()), &err),
         &err);
    must(ty_gguf_writer_create(&w.w, path, t->architecture ? t->architecture : "llama", &err),
         &err);
    metadata(&w);
    vocabulary(&w);
    tensors(&w);
    w.declare = false;
    tensors(&w);
    must(ty_gguf_finish(w.w, &err), &err);
    ty_gguf_writer_destroy(&w.w);
    ty_tokenizer_destroy(&w.tok);
}
