/*
 * synth.c - `tyto synth OUT`: a pipeline of random weights in any size, for load tests and benches.
 *
 * Shapes are exact, words are made up.  Numbers are uniform with the deviation that keeps
 * activations near one (1 / sqrt(inputs)); a pattern of a million of them is tiled over the tensors,
 * so that 7B is written as fast as the disk takes it.
 *
 * So that every answer is printable and as long as was asked for, channel 0 of the decoder is 1 all
 * the way (each embedding has it, no layer adds to it) and the head subtracts it from bytes, unused
 * and control tokens, the end of text among them.
 */
#include "orchestration/commands.h"
#include "orchestration/outdir.h"
#include "orchestration/stage_file.h"
#include "orchestration/stage_types.h"
#include "orchestration/vocab.h"

#include "common/base/options.h"
#include "common/base/outfile.h"

#include <libgen.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A prime number of blocks, so that rows do not repeat. */
enum { PATTERN_BLOCKS = 32749, PATTERN = PATTERN_BLOCKS * TY_QBLOCK, MAX_PATTERNS = 48 };
static const float forbid = -60; /* against logits whose deviation is 3 */

typedef struct {
    const char *name;
    ty_decoder_dims d;
} llm_preset;
static const llm_preset llms[] = {
    /* context, width, layers, heads, kv heads, ffn, vocabulary, eps, rope, v2, bloom */
    {"micro", {2048, 64, 2, 4, 4, 192, 640, 1e-6f, 0, false, false}},
    {"15m", {2048, 288, 6, 6, 6, 768, 32000, 1e-6f, 0, false, false}},
    {"110m", {2048, 768, 12, 12, 12, 2048, 32000, 1e-6f, 0, false, false}},
    {"1.1b", {2048, 2048, 22, 32, 4, 5632, 32000, 1e-5f, 0, false, false}},
    {"7b", {2048, 4096, 32, 32, 32, 11008, 32000, 1e-6f, 0, false, false}},
    {NULL, {0}},
};

typedef struct {
    const char *name;
    ty_vit_dims v;
    int n_query, n_layer, n_head, n_ff; /* of the abstractor */
} vit_preset;
static const vit_preset vits[] = {
    /* image, patch, width, layers, heads, ffn; queries, layers, heads, ffn */
    {"micro", {28, 14, 64, 2, 2, 128, 1e-6f, "quick_gelu", 0}, 3, 2, 2, 96},
    {"tiny", {56, 14, 128, 4, 4, 512, 1e-6f, "quick_gelu", 0}, 8, 2, 4, 352},
    {"b16", {224, 16, 768, 12, 12, 3072, 1e-6f, "quick_gelu", 0}, 64, 6, 12, 2048},
    {"l14", {224, 14, 1024, 24, 16, 4096, 1e-6f, "quick_gelu", 0}, 64, 6, 16, 2816},
    {"l14-448", {448, 14, 1024, 24, 16, 4096, 1e-6f, "quick_gelu", 0}, 64, 6, 16, 2816},
    {NULL, {0}, 0, 0, 0, 0},
};

static const struct {
    const char *name, *llm, *vit;
} shapes[] = {
    {"micro", "micro", "micro"}, {"110m", "110m", "tiny"},  {"1.1b", "1.1b", "b16"},
    {"7b", "7b", "l14"},         {"vit-l", "micro", "l14"},
};

typedef struct {
    ty_dtype t;
    float deviation;
    uint8_t *bytes; /* PATTERN elements */
} pattern;

typedef struct {
    ty_decoder_dims llm;
    ty_vit_dims vit;
    ty_abstractor_dims abstractor;
    bool vision, v2;
    uint64_t seed;
    vocab words;
    stage_types types;
    outdir out;
    progress progress;
    const char *name;
    ty_layout layout[TY_STAGE_COUNT];
    ty_dtype *type[TY_STAGE_COUNT];
    pattern pattern[MAX_PATTERNS];
    int n_pattern;
    uint8_t *tensor; /* the one at work */
} synth;

/* --- numbers --- */

/* splitmix64 */
static uint64_t scramble(uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

/* Number i, uniform in [-1, 1). */
static float random_at(uint64_t seed, uint64_t i) {
    return (float)(scramble(seed ^ scramble(i)) >> 40) / (float)(1 << 23) - 1;
}

static ty_status get_pattern(synth *s, ty_dtype t, float deviation, const pattern **out,
                             ty_err *err) {
    for (int i = 0; i < s->n_pattern; i++)
        if (s->pattern[i].t == t && s->pattern[i].deviation == deviation) {
            *out = &s->pattern[i];
            return TY_OK;
        }
    if (s->n_pattern == MAX_PATTERNS) return ty_fail(err, TY_EINTERNAL, "too many kinds of tensor");
    pattern *p = &s->pattern[s->n_pattern];
    float *x = malloc(PATTERN * sizeof(*x));
    *p = (pattern){t, deviation, malloc(ty_dtype_bytes(t, PATTERN))};
    if (!x || !p->bytes) {
        free(x);
        free(p->bytes);
        return ty_fail(err, TY_ENOMEM, "no memory for random numbers");
    }
    for (int i = 0; i < PATTERN; i++) x[i] = sqrtf(3) * deviation * random_at(s->seed, (uint64_t)i);
    ty_dtype_from_f32(t, x, PATTERN, p->bytes);
    free(x);
    s->n_pattern++;
    *out = p;
    return TY_OK;
}

/* Fills n elements with the pattern, beginning at a block that the tensor's name gives. */
static void tile(const synth *s, const pattern *p, const char *name, size_t n, uint8_t *dst) {
    uint64_t h = s->seed;
    for (; *name; name++) h = scramble(h ^ (uint8_t)*name);
    size_t block = ty_dtype_bytes(p->t, TY_QBLOCK), whole = ty_dtype_bytes(p->t, PATTERN);
    size_t at = (size_t)(h % PATTERN_BLOCKS) * block, left = ty_dtype_bytes(p->t, n);
    while (left > 0) {
        size_t k = whole - at < left ? whole - at : left;
        memcpy(dst, p->bytes + at, k);
        dst += k;
        left -= k;
        at = 0;
    }
}

/* Element i of a tensor, whatever its type. */
static void set_element(ty_dtype t, uint8_t *data, size_t i, float v) {
    float x[TY_QBLOCK];
    size_t n = (size_t)ty_dtype_get((int)t)->block, first = i / n * n;
    ty_dtype_to_f32(t, data, first, n, x);
    x[i - first] = v;
    ty_dtype_from_f32(t, x, n, data + ty_dtype_bytes(t, first));
}

static void add_one(ty_dtype t, uint8_t *data, size_t n) {
    float x;
    for (size_t i = 0; i < n; i++) {
        ty_dtype_to_f32(t, data, i, 1, &x);
        x += 1;
        ty_dtype_from_f32(t, &x, 1, data + ty_dtype_bytes(t, i));
    }
}

/* --- tensors --- */

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), k = strlen(end);
    return n >= k && strcmp(s + n - k, end) == 0;
}

/* Layers that add to the residual stream share its budget. */
static bool adds_to_stream(const char *name) {
    return ends_with(name, "attn_output.weight") || ends_with(name, "ffn_down.weight");
}

static float deviation_of(const synth *s, const ty_tensor_spec *t) {
    if (t->role == TY_ROLE_GAIN || t->role == TY_ROLE_BIAS) return 0.02f;
    if (strcmp(t->name, "token_embd.weight") == 0) return 0.5f;
    if (strcmp(t->name, "vit_eos") == 0) return 0.5f;
    if (t->role == TY_ROLE_OTHER && t->n_dim == 3) return 0.1f;
    double inputs = 1;
    for (int i = 1; i < t->n_dim; i++) inputs *= (double)t->shape[i];
    double x = 1 / sqrt(inputs);
    if (strcmp(t->name, "output.weight") == 0) x *= 3;
    if (adds_to_stream(t->name)) x /= sqrt(2.0 * s->llm.n_layer);
    return (float)x;
}

/* Channel 0: see the top of the file. */
static void mark_channel(const synth *s, const ty_tensor_spec *t, ty_dtype type, uint8_t *data) {
    size_t cols = (size_t)t->shape[t->n_dim - 1];
    bool head = strcmp(t->name, "output.weight") == 0;
    if (head || strcmp(t->name, "token_embd.weight") == 0)
        for (int id = 0; id < s->words.n; id++) {
            float v = !head ? 1 : vocab_is_text(&s->words, id) ? 0 : forbid;
            set_element(type, data, (size_t)id * cols, v);
        }
    if (adds_to_stream(t->name) || strcmp(t->name, "visual_fc.weight") == 0)
        memset(data, 0, ty_dtype_bytes(type, cols)); /* zero in every type */
    if (strcmp(t->name, "visual_fc.bias") == 0 || strcmp(t->name, "vit_eos") == 0)
        set_element(type, data, 0, 1);
}

/* Always f32: stage_types gives other roles than weights no other type. */
static ty_status get_fixed(synth *s, const ty_tensor_spec *t, const void **data, ty_err *err) {
    float *x = malloc(stage_file_tensor(t, TY_F32).size_bytes);
    if (!x) return ty_fail(err, TY_ENOMEM, "no memory for tensor %s", t->name);
    ty_layout_fill_fixed(t, x);
    s->tensor = (uint8_t *)x;
    *data = x;
    return TY_OK;
}

static ty_status get_tensor(void *ctx, const ty_tensor_spec *t, ty_dtype type, const void **data,
                            ty_err *err) {
    synth *s = ctx;
    const pattern *p = NULL;
    size_t n = 1;
    for (int i = 0; i < t->n_dim; i++) n *= (size_t)t->shape[i];
    if (t->fixed != TY_FIXED_NONE) return get_fixed(s, t, data, err);
    ty_status st = get_pattern(s, type, deviation_of(s, t), &p, err);
    if (st != TY_OK) return st;
    s->tensor = malloc(ty_dtype_bytes(type, n));
    if (!s->tensor) return ty_fail(err, TY_ENOMEM, "no memory for tensor %s", t->name);
    tile(s, p, t->name, n, s->tensor);
    if (t->role == TY_ROLE_GAIN) add_one(type, s->tensor, n);
    mark_channel(s, t, type, s->tensor);
    *data = s->tensor;
    return TY_OK;
}

static void put_back(void *ctx) {
    synth *s = ctx;
    free(s->tensor);
    s->tensor = NULL;
}

static const char *family_name(const synth *s) {
    return s->v2 ? "mplug_owl_v2" : s->vision ? "mplug_owl_v1" : "llama";
}

static ty_status set_decoder(const synth *s, ty_gguf_writer *w, ty_err *err) {
    const ty_stage_kind k = TY_STAGE_DECODER;
    ty_status st =
        stage_file_set_family(w, stage_file_type(&s->layout[k], s->type[k]), family_name(s),
                              s->vision ? s->abstractor.n_query + 1 : 0, err);
    if (st == TY_OK) st = ty_gguf_set_str(w, "general.name", s->name, strlen(s->name), err);
    if (st == TY_OK) st = ty_layout_set_decoder(w, &s->llm, err);
    return st == TY_OK ? vocab_set(w, &s->words, err) : st;
}

static ty_status set_metadata(void *ctx, ty_stage_kind stage, ty_gguf_writer *w, ty_err *err) {
    const synth *s = ctx;
    ty_preprocess_dims clip = ty_layout_clip();
    clip.image_size = s->vit.image_size;
    if (s->v2) clip.mode = "resize";
    switch (stage) {
    case TY_STAGE_PREPROCESS: return ty_layout_set_preprocess(w, &clip, err);
    case TY_STAGE_VIT: return ty_layout_set_vit(w, &s->vit, err);
    case TY_STAGE_ABSTRACTOR: return ty_layout_set_abstractor(w, &s->abstractor, err);
    default: return set_decoder(s, w, err);
    }
}

/* --- options --- */

typedef struct {
    const char *shape, *family, *llm, *vit, *tokenizer;
    int layers, vit_layers, queries, context, seed;
    ty_option_list types;
} options;

/* "12,768,12,2048,32000[,kv heads]" */
static ty_status parse_custom(const char *text, ty_decoder_dims *d, ty_err *err) {
    int n = 0, used = 0;
    *d = llms[0].d;
    n = sscanf(text, "%d,%d,%d,%d,%d%n", &d->n_layer, &d->width, &d->n_head, &d->n_ff, &d->n_vocab,
               &used);
    d->n_head_kv = d->n_head;
    if (n == 5 && text[used] == ',') {
        int more = 0;
        n = sscanf(text + used, ",%d%n", &d->n_head_kv, &more) == 1 ? 5 : 0;
        used += more;
    }
    if (n == 5 && text[used] == '\0') return TY_OK;
    return ty_fail(err, TY_EINVAL,
                   "--llm %s: want micro, 15m, 110m, 1.1b, 7b or LAYERS,WIDTH,HEADS,FFN,VOCABULARY"
                   "[,KV_HEADS]",
                   text);
}

static ty_status choose_llm(synth *s, const char *name, ty_err *err) {
    for (const llm_preset *p = llms; p->name; p++)
        if (strcmp(p->name, name) == 0) {
            s->llm = p->d;
            return TY_OK;
        }
    return parse_custom(name, &s->llm, err);
}

static ty_status choose_vit(synth *s, const char *name, ty_err *err) {
    s->vision = strcmp(name, "none") != 0;
    if (!s->vision) return TY_OK;
    for (const vit_preset *p = vits; p->name; p++)
        if (strcmp(p->name, name) == 0) {
            s->vit = p->v;
            s->abstractor =
                (ty_abstractor_dims){.n_query = p->n_query,
                                     .width = p->v.width,
                                     .n_layer = p->n_layer,
                                     .n_head = p->n_head,
                                     .n_ff = p->n_ff,
                                     .grid = s->v2 ? p->v.image_size / p->v.patch_size : 0,
                                     .n_in = p->v.width,
                                     .eps = p->v.eps};
            return TY_OK;
        }
    return ty_fail(err, TY_EINVAL, "--vit %s: want micro, tiny, b16, l14, l14-448 or none", name);
}

static ty_status check_llm(const ty_decoder_dims *d, ty_err *err) {
    bool ok = d->n_layer >= 1 && d->n_layer <= 1000 && d->width >= 2 && d->width <= 65536 &&
              d->n_head >= 1 && d->n_head_kv >= 1 && d->n_head <= d->width && d->n_ff >= 1 &&
              d->n_ff <= 1 << 20 && d->n_vocab <= 1 << 19;
    if (ok)
        ok = d->width % d->n_head == 0 && d->width / d->n_head % 2 == 0 &&
             d->n_head % d->n_head_kv == 0;
    if (ok) return TY_OK;
    return ty_fail(
        err, TY_EINVAL,
        "--llm: %d layers, width %d, %d heads on %d, ffn %d, vocabulary %d: want a width "
        "of whole, even heads",
        d->n_layer, d->width, d->n_head, d->n_head_kv, d->n_ff, d->n_vocab);
}

static ty_status choose_shape(synth *s, const options *o, ty_err *err) {
    const char *llm = o->llm, *vit = o->vit;
    bool known = false;
    s->v2 = strcmp(o->family, "v2") == 0;
    if (!s->v2 && strcmp(o->family, "v1") != 0)
        return ty_fail(err, TY_EINVAL, "--family %s: want v1 or v2", o->family);
    for (size_t i = 0; i < sizeof(shapes) / sizeof(*shapes); i++) {
        if (strcmp(shapes[i].name, o->shape) != 0) continue;
        known = true;
        if (!llm) llm = shapes[i].llm;
        if (!vit) vit = shapes[i].vit;
    }
    if (!known)
        return ty_fail(err, TY_EINVAL, "--shape %s: want micro, 110m, 1.1b, 7b or vit-l", o->shape);
    /* v2 sees 448 pixels. */
    if (s->v2 && !o->vit && strcmp(vit, "l14") == 0) vit = "l14-448";
    ty_status st = choose_llm(s, llm, err);
    if (st == TY_OK) st = choose_vit(s, vit, err);
    s->llm.multiway = s->v2;
    if (st == TY_OK && s->v2 && s->llm.n_head_kv != s->llm.n_head)
        return ty_fail(err, TY_EINVAL, "--llm %s: v2 has a key-value head for each of its heads",
                       llm);
    if (o->layers) s->llm.n_layer = o->layers;
    if (o->context) s->llm.n_ctx = o->context;
    if (o->vit_layers) s->vit.n_layer = o->vit_layers;
    if (o->queries) s->abstractor.n_query = o->queries;
    s->abstractor.n_out = s->llm.width;
    return st == TY_OK ? check_llm(&s->llm, err) : st;
}

/* --- writing --- */

static ty_status choose_types(synth *s, ty_stage_kind k, ty_err *err) {
    const ty_layout *l = &s->layout[k];
    s->type[k] = calloc((size_t)l->n + 1, sizeof(*s->type[k]));
    if (!s->type[k]) return ty_fail(err, TY_ENOMEM, "no memory");
    int n = 0;
    for (int i = 0; i < l->n; i++) {
        bool undivided = false;
        s->type[k][i] = stage_types_choose(&s->types, k, &l->item[i], TY_F32, &undivided);
        n += undivided;
    }
    if (n)
        progress_line(&s->progress,
                      "%s: %d tensors stay f32: their rows are not whole blocks of %d",
                      ty_stage_name(k), n, ty_dtype_get(s->types.of[k])->block);
    return TY_OK;
}

static ty_status plan(synth *s, const char *tokenizer, ty_err *err) {
    ty_status st = tokenizer ? vocab_from_spm(&s->words, tokenizer, s->llm.n_vocab, err)
                             : vocab_made_up(&s->words, s->llm.n_vocab, err);
    s->words.mode = s->v2 ? "slow" : "fast";
    if (st == TY_OK && s->vision) st = ty_layout_vit(&s->layout[TY_STAGE_VIT], &s->vit, err);
    if (st == TY_OK && s->vision)
        st = ty_layout_abstractor(&s->layout[TY_STAGE_ABSTRACTOR], &s->abstractor, err);
    if (st == TY_OK) st = ty_layout_decoder(&s->layout[TY_STAGE_DECODER], &s->llm, err);
    for (int k = 0; st == TY_OK && k < TY_STAGE_COUNT; k++)
        st = choose_types(s, (ty_stage_kind)k, err);
    return st;
}

static ty_status write_stage(synth *s, ty_stage_kind k, const volatile sig_atomic_t *stop,
                             ty_pipeline *p, ty_err *err) {
    char path[4200];
    if (k != TY_STAGE_DECODER && !s->vision) return TY_OK;
    snprintf(p->path[k], sizeof(p->path[k]), "%s.gguf", ty_stage_name(k));
    ty_status st = outdir_file(&s->out, p->path[k], path, sizeof(path), err);
    if (st != TY_OK) return st;
    const char *arch = stage_file_architecture(k, &s->llm);
    stage_file f = {k, path,         arch,       &s->layout[k], s->type[k],
                    s, set_metadata, get_tensor, put_back};
    return stage_file_write(&f, &s->progress, stop, err);
}

static uint64_t total_bytes(const synth *s) {
    uint64_t n = 0;
    for (int k = 0; k < TY_STAGE_COUNT; k++) {
        stage_file f = {.layout = &s->layout[k], .type = s->type[k]};
        n += stage_file_bytes(&f);
    }
    return n;
}

static ty_status run(synth *s, const options *o, const char *out, ty_err *err) {
    enum { HEADERS = 4 << 20 };
    ty_pipeline p = {0};
    ty_status st = plan(s, o->tokenizer, err);
    if (st == TY_OK) st = outdir_begin(&s->out, out, err);
    if (st == TY_OK) st = ty_outfile_check_space(s->out.tmp, total_bytes(s) + HEADERS, err);
    if (st != TY_OK) return st;
    const volatile sig_atomic_t *stop = stage_file_catch_signals();
    snprintf(p.family, sizeof(p.family), "%s", family_name(s));
    s->progress.total = total_bytes(s);
    for (int k = 0; st == TY_OK && k < TY_STAGE_COUNT; k++)
        st = write_stage(s, (ty_stage_kind)k, stop, &p, err);
    if (st == TY_OK) st = ty_pipeline_save(&p, s->out.tmp, err);
    if (st == TY_OK) st = outdir_commit(&s->out, err);
    progress_end(&s->progress);
    if (st == TY_OK)
        printf("%s: random weights, %.1f MiB\n", s->out.path, (double)total_bytes(s) / 1048576);
    return st;
}

static void clear(synth *s) {
    put_back(s);
    outdir_abandon(&s->out);
    for (int i = 0; i < s->n_pattern; i++) free(s->pattern[i].bytes);
    for (int k = 0; k < TY_STAGE_COUNT; k++) {
        ty_layout_clear(&s->layout[k]);
        free(s->type[k]);
    }
    vocab_clear(&s->words);
}

int cmd_synth(int argc, char **argv) {
    static options o;
    static const ty_option table[] = {
        TY_OPT_STR("shape", NULL, o.shape, "micro", "NAME", "micro, 110m, 1.1b, 7b, vit-l"),
        TY_OPT_STR("family", NULL, o.family, "v1", "v1|v2", "mPLUG-Owl, or mPLUG-Owl2"),
        TY_OPT_STR("llm", NULL, o.llm, NULL, "NAME",
                   "micro, 15m, 110m, 1.1b, 7b or LAYERS,WIDTH,HEADS,FFN,VOCABULARY[,KV_HEADS]"),
        TY_OPT_STR("vit", NULL, o.vit, NULL, "NAME",
                   "micro, tiny, b16, l14, l14-448, or none for a decoder alone"),
        TY_OPT_INT("layers", NULL, o.layers, 0, 0, 1000, "the decoder's; 0 = as its name says"),
        TY_OPT_INT("vit-layers", NULL, o.vit_layers, 0, 0, 1000, "the ViT's"),
        TY_OPT_INT("queries", NULL, o.queries, 0, 0, 4096, "the abstractor's"),
        TY_OPT_INT("context", NULL, o.context, 0, 0, 1 << 20, "the decoder's"),
        TY_OPT_INT("seed", NULL, o.seed, 1, 0, 2147483647, "of the numbers"),
        TY_OPT_STR("tokenizer", NULL, o.tokenizer, NULL, "FILE",
                   "a sentencepiece model instead of made-up words"),
        TY_OPT_LIST("type", o.types, "[STAGE=]T", STAGE_TYPES_HELP),
        TY_OPT_END,
    };
    const char *usage = "tyto synth OUT [--shape NAME] [--llm NAME] [--vit NAME] [--type T] ...";
    int rest;
    ty_options_next next = ty_options_parse(
        table, usage,
        "Makes a pipeline OUT of random weights in the exact shapes of a size, for load tests. Its "
        "answers are printable\nnonsense that never ends by itself: max_tokens is their length.",
        argc, argv, &rest);
    if (next != TY_OPTIONS_GO) return next == TY_OPTIONS_DONE ? 0 : 2;
    if (argc - rest != 1) {
        fprintf(stderr, "tyto synth: want OUT\nusage: %s\n", usage);
        return 2;
    }
    synth s = {.seed = scramble((uint64_t)o.seed)};
    ty_err err = {0};
    if (stage_types_parse(&s.types, &o.types, &err) != TY_OK ||
        choose_shape(&s, &o, &err) != TY_OK) {
        fprintf(stderr, "tyto synth: %s\n", err.text);
        return 2;
    }
    char out[4096];
    snprintf(out, sizeof(out), "%s", argv[rest]);
    s.name = basename(out);
    progress_start(&s.progress, 0);
    ty_status st = run(&s, &o, argv[rest], &err);
    if (st != TY_OK) fprintf(stderr, "tyto synth: %s\n", err.text);
    clear(&s);
    return st == TY_OK ? 0 : 1;
}
