/*
 * import.c - `tyto import SRC OUT`: a Hugging Face checkpoint directory into a pipeline.
 *
 * Everything that can be checked is checked before the first byte is written: names, shapes, the
 * tokenizer, the disk.  Then each stage's file is written, a tensor at a time.
 */
#include "orchestration/import.h"

#include "orchestration/commands.h"
#include "orchestration/outdir.h"
#include "orchestration/source.h"
#include "orchestration/stage_file.h"
#include "orchestration/stage_types.h"
#include "orchestration/vocab.h"

#include "common/base/options.h"
#include "common/base/outfile.h"
#include "common/math/pool.h"
#include "common/model/adapter.h"
#include "services/preprocess/preprocess.h"

#include <libgen.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1 << 16 }; /* elements that one task converts */

typedef struct {
    source src;
    vocab words;
    stage_types types;
    ty_pool *pool;
    progress progress;
    outdir out;
    const char *name; /* general.name of the decoder */
    ty_layout layout[TY_STAGE_COUNT];
    ty_dtype *type[TY_STAGE_COUNT]; /* [layout.n] */
    bool *used;                     /* [tensors of the checkpoint] */
    ty_loaded loaded;               /* the tensor at work ... */
    float *made;                    /* ... or made up, or merged */
    ty_adapter *adapter;            /* --adapter; NULL: none */
    int n_merged;
    void *permuted, *converted; /* ... and what became of it */
} import;

/* --- from one type to another --- */

typedef struct {
    const ty_tensor *from;
    ty_dtype to;
    uint8_t *dst;
    size_t n;
    float *scratch; /* [members][CHUNK] */
} conversion;

static void convert_chunk(void *ctx, int task, int member) {
    const conversion *c = ctx;
    size_t first = (size_t)task * CHUNK, n = c->n - first < CHUNK ? c->n - first : CHUNK;
    float *x = c->scratch + (size_t)member * CHUNK;
    ty_dtype_to_f32(c->from->dtype, c->from->data, first, n, x);
    ty_dtype_from_f32(c->to, x, n, c->dst + ty_dtype_bytes(c->to, first));
}

static ty_status convert(import *m, const ty_tensor *from, ty_dtype to, void **out, ty_err *err) {
    conversion c = {from, to, NULL, (size_t)ty_tensor_count(from), NULL};
    size_t members = (size_t)ty_pool_size(m->pool);
    c.dst = malloc(ty_dtype_bytes(to, c.n) + 1);
    c.scratch = malloc(members * CHUNK * sizeof(float));
    if (!c.dst || !c.scratch) {
        free(c.dst);
        free(c.scratch);
        return ty_fail(err, TY_ENOMEM, "no memory for %zu elements", c.n);
    }
    ty_pool_run(m->pool, (int)((c.n + CHUNK - 1) / CHUNK), convert_chunk, &c);
    free(c.scratch);
    *out = c.dst;
    return TY_OK;
}

/* --- the stages' files --- */

/* Where a tensor of the layout lies in the checkpoint. */
static void source_name(const import *m, ty_stage_kind stage, const ty_tensor_spec *s, char *out,
                        size_t size) {
    const char *prefix = m->src.prefix[stage];
    snprintf(out, size, "%s%s", prefix, s->source);
    if (strcmp(s->source, "lm_head.weight") != 0 || ty_checkpoint_has(m->src.checkpoint, out))
        return;
    snprintf(out, size, "%smodel.embed_tokens.weight", prefix); /* tied */
}

static ty_stage_kind stage_of(const import *m, const ty_tensor_spec *s) {
    for (int k = 0; k < TY_STAGE_COUNT; k++)
        if (m->layout[k].n && s >= m->layout[k].item && s < m->layout[k].item + m->layout[k].n)
            return (ty_stage_kind)k;
    return TY_STAGE_COUNT;
}

/* Rows in the order of the stage file. */
static ty_status permute(import *m, const ty_tensor_spec *s, ty_tensor *t, ty_err *err) {
    m->permuted = malloc(t->size_bytes + 1);
    if (!m->permuted) return ty_fail(err, TY_ENOMEM, "no memory for tensor %s", s->name);
    size_t row = t->size_bytes / (size_t)t->shape[0];
    if (s->qkv_heads)
        ty_layout_split_qkv(t->data, m->permuted, s->qkv_heads, t->shape[0], row);
    else
        ty_layout_permute_rope(t->data, m->permuted, s->rope_heads, t->shape[0], row);
    t->data = m->permuted;
    return TY_OK;
}

/* A tensor that the checkpoint leaves out, for it is the same in every model. */
static bool is_made(const import *m, const ty_tensor_spec *s, const char *name) {
    return s->fixed != TY_FIXED_NONE && !ty_checkpoint_has(m->src.checkpoint, name);
}

static ty_status make_fixed(import *m, const ty_tensor_spec *s, ty_tensor *t, ty_err *err) {
    *t = stage_file_tensor(s, TY_F32);
    m->made = malloc(t->size_bytes);
    if (!m->made) return ty_fail(err, TY_ENOMEM, "no memory for tensor %s", s->name);
    ty_layout_fill_fixed(s, m->made);
    t->data = m->made;
    return TY_OK;
}

/* The pair of the adapter that belongs to a tensor of the checkpoint. */
static const ty_adapter_pair *pair_of(const import *m, const char *name) {
    static const char weight[] = ".weight";
    size_t len = strlen(name), tail = sizeof(weight) - 1;
    if (!m->adapter || len <= tail || strcmp(name + len - tail, weight) != 0) return NULL;
    return ty_adapter_find(m->adapter, name, len - tail);
}

/* The loaded tensor as f32, the adapter added. */
static ty_status merge(import *m, const ty_adapter_pair *p, ty_tensor *t, ty_err *err) {
    size_t n = (size_t)ty_tensor_count(&m->loaded.t);
    *t = m->loaded.t;
    m->made = malloc(n * sizeof(float) + 1);
    if (!m->made) return ty_fail(err, TY_ENOMEM, "no memory to merge %s", p->module);
    ty_dtype_to_f32(t->dtype, t->data, 0, n, m->made);
    t->dtype = TY_F32;
    t->data = m->made;
    t->size_bytes = n * sizeof(float);
    m->n_merged++;
    return ty_adapter_merge(m->adapter, p, m->made, ty_tensor_rows(t), ty_tensor_cols(t), err);
}

/* The checkpoint's tensor, with what the adapter has for it. */
static ty_status load(import *m, const char *name, ty_tensor *t, ty_err *err) {
    const ty_adapter_pair *pair = pair_of(m, name);
    ty_status st = ty_checkpoint_load(m->src.checkpoint, name, &m->loaded, err);
    *t = m->loaded.t;
    return st == TY_OK && pair ? merge(m, pair, t, err) : st;
}

static ty_status get_tensor(void *ctx, const ty_tensor_spec *s, ty_dtype to, const void **data,
                            ty_err *err) {
    import *m = ctx;
    char name[256];
    ty_tensor t;
    source_name(m, stage_of(m, s), s, name, sizeof(name));
    ty_status st = is_made(m, s, name) ? make_fixed(m, s, &t, err) : load(m, name, &t, err);
    if (st != TY_OK) return st;
    if (s->rope_heads || s->qkv_heads) st = permute(m, s, &t, err);
    if (st == TY_OK && t.dtype != to) {
        st = convert(m, &t, to, &m->converted, err);
        t.data = m->converted;
    }
    *data = t.data;
    return st;
}

static void put_back(void *ctx) {
    import *m = ctx;
    ty_checkpoint_release(&m->loaded);
    free(m->made);
    free(m->permuted);
    free(m->converted);
    m->made = NULL;
    m->permuted = m->converted = NULL;
}

static ty_status set_rope_scaling(const source *s, ty_gguf_writer *w, ty_err *err) {
    char type[64], factor[64];
    const char *arch = ty_layout_decoder_arch(&s->decoder);
    if (!(s->rope_factor > 0)) return TY_OK;
    snprintf(type, sizeof(type), "%s.rope.scaling.type", arch);
    snprintf(factor, sizeof(factor), "%s.rope.scaling.factor", arch);
    ty_status st = ty_gguf_set_str(w, type, "linear", 6, err);
    return st == TY_OK ? ty_gguf_set_f32(w, factor, s->rope_factor, err) : st;
}

static ty_status set_decoder(const import *m, ty_gguf_writer *w, ty_err *err) {
    const source *s = &m->src;
    const ty_stage_kind k = TY_STAGE_DECODER;
    ty_status st = stage_file_set_family(w, stage_file_type(&m->layout[k], m->type[k]), s->family,
                                         s->vision ? s->abstractor.n_query + 1 : 0, err);
    if (st == TY_OK) st = ty_gguf_set_str(w, "general.name", m->name, strlen(m->name), err);
    if (st == TY_OK) st = ty_layout_set_decoder(w, &s->decoder, err);
    if (st == TY_OK) st = set_rope_scaling(s, w, err);
    return st == TY_OK ? vocab_set(w, &m->words, err) : st;
}

static ty_status set_metadata(void *ctx, ty_stage_kind stage, ty_gguf_writer *w, ty_err *err) {
    const import *m = ctx;
    switch (stage) {
    case TY_STAGE_PREPROCESS: return ty_layout_set_preprocess(w, &m->src.preprocess, err);
    case TY_STAGE_VIT: return ty_layout_set_vit(w, &m->src.vit, err);
    case TY_STAGE_ABSTRACTOR: return ty_layout_set_abstractor(w, &m->src.abstractor, err);
    default: return set_decoder(m, w, err);
    }
}

/* --- the plan --- */

/* "encoder.layers.3.mlp.w2.weight" -> "encoder.layers.*.mlp.w2.weight" */
static void group_name(const char *name, char *out, size_t size) {
    size_t at = 0;
    for (const char *p = name; *p && at + 1 < size; p++) {
        bool number = p > name && p[-1] == '.' && *p >= '0' && *p <= '9';
        out[at++] = number ? '*' : *p;
        while (number && p[1] >= '0' && p[1] <= '9') p++;
    }
    out[at] = '\0';
}

/* Says once per group of tensors that its rows stay f32. */
static void note_undivided(import *m, ty_stage_kind k, const bool *undivided) {
    const ty_layout *l = &m->layout[k];
    char group[96], other[96];
    for (int i = 0; i < l->n; i++) {
        if (!undivided[i]) continue;
        int n = 0;
        bool first = true;
        group_name(l->item[i].name, group, sizeof(group));
        for (int j = 0; j < l->n; j++) {
            group_name(l->item[j].name, other, sizeof(other));
            if (!undivided[j] || strcmp(group, other) != 0) continue;
            n++;
            if (j < i) first = false;
        }
        if (!first) continue;
        const ty_tensor_spec *s = &l->item[i];
        progress_line(&m->progress,
                      "%s: %s stays f32 (%d tensor%s): rows of %lld are not whole blocks of %d",
                      ty_stage_name(k), group, n, n == 1 ? "" : "s",
                      (long long)s->shape[s->n_dim - 1], ty_dtype_get(m->types.of[k])->block);
    }
}

static int index_of(const ty_checkpoint *c, const char *name) {
    int lo = 0, hi = ty_checkpoint_count(c) - 1;
    while (lo < hi) {
        int mid = (lo + hi) / 2;
        if (strcmp(ty_checkpoint_name(c, mid), name) < 0)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

/* Leaves dimensions of one out. */
static void squeeze(ty_tensor *t) {
    int n = 0;
    for (int i = 0; i < t->n_dim; i++)
        if (t->shape[i] != 1) t->shape[n++] = t->shape[i];
    t->n_dim = n;
}

/* The tensor is there and has the layout's shape; notes it as used. */
static ty_status check_tensor(import *m, ty_stage_kind k, const ty_tensor_spec *s, ty_tensor *t,
                              ty_err *err) {
    char name[256], is[128], want[128];
    source_name(m, k, s, name, sizeof(name));
    ty_tensor w = stage_file_tensor(s, TY_F32);
    if (is_made(m, s, name)) {
        *t = w;
        return TY_OK;
    }
    ty_status st = ty_checkpoint_info(m->src.checkpoint, name, t, err);
    if (st != TY_OK) return st;
    m->used[index_of(m->src.checkpoint, name)] = true;
    if (s->squeezed) squeeze(t);
    if (pair_of(m, name)) t->dtype = TY_F32; /* what merge makes of it */
    if (t->n_dim == s->n_dim && memcmp(t->shape, w.shape, (size_t)s->n_dim * sizeof(*w.shape)) == 0)
        return TY_OK;
    return ty_fail(err, TY_ESHAPE, "%s: tensor %s is %s, want %s", m->src.dir, name,
                   ty_tensor_shape_text(t, is, sizeof(is)),
                   ty_tensor_shape_text(&w, want, sizeof(want)));
}

static ty_status plan_types(import *m, ty_stage_kind k, ty_err *err) {
    ty_layout *l = &m->layout[k];
    bool *undivided = calloc((size_t)l->n + 1, sizeof(*undivided));
    m->type[k] = calloc((size_t)l->n + 1, sizeof(*m->type[k]));
    ty_status st = undivided && m->type[k] ? TY_OK : ty_fail(err, TY_ENOMEM, "no memory");
    for (int i = 0; st == TY_OK && i < l->n; i++) {
        ty_tensor t;
        st = check_tensor(m, k, &l->item[i], &t, err);
        if (st == TY_OK)
            m->type[k][i] = stage_types_choose(&m->types, k, &l->item[i], t.dtype, &undivided[i]);
    }
    if (st == TY_OK) note_undivided(m, k, undivided);
    free(undivided);
    return st;
}

/* Tensors that no stage takes are named, except what LLaMA recomputes. */
static void note_unknown(import *m) {
    const ty_checkpoint *c = m->src.checkpoint;
    int n = 0;
    for (int i = 0; i < ty_checkpoint_count(c); i++) {
        if (m->used[i] || strstr(ty_checkpoint_name(c, i), "rotary_emb.inv_freq")) continue;
        if (++n <= 10)
            progress_line(&m->progress, "warning: tensor %s is not known, left out",
                          ty_checkpoint_name(c, i));
    }
    if (n > 10) progress_line(&m->progress, "warning: and %d more", n - 10);
}

/* Every layer that the adapter changes is there. */
static ty_status check_adapter(const import *m, ty_err *err) {
    for (int i = 0; m->adapter && i < m->adapter->n; i++) {
        char name[512];
        snprintf(name, sizeof(name), "%s.weight", m->adapter->pair[i].module);
        if (!ty_checkpoint_has(m->src.checkpoint, name))
            return ty_fail(err, TY_ESHAPE,
                           "%s: is for %s, which %s does not have: another model's adapter?",
                           m->adapter->dir, m->adapter->pair[i].module, m->src.dir);
    }
    return TY_OK;
}

/* BLOOM's head is its embedding; a checkpoint may hold it a second time. */
static ty_status check_tied_head(import *m, ty_err *err) {
    const ty_checkpoint *c = m->src.checkpoint;
    ty_loaded head = {0}, embd = {0};
    char name[256];
    const char *lm_head = m->src.vision ? "language_model.lm_head.weight" : "lm_head.weight";
    if (!m->src.decoder.bloom || !ty_checkpoint_has(c, lm_head)) return TY_OK;
    m->used[index_of(c, lm_head)] = true;
    source_name(m, TY_STAGE_DECODER, &m->layout[TY_STAGE_DECODER].item[0], name, sizeof(name));
    ty_status st = ty_checkpoint_load(m->src.checkpoint, lm_head, &head, err);
    if (st == TY_OK) st = ty_checkpoint_load(m->src.checkpoint, name, &embd, err);
    if (st == TY_OK && (head.t.size_bytes != embd.t.size_bytes ||
                        memcmp(head.t.data, embd.t.data, head.t.size_bytes) != 0))
        st =
            ty_fail(err, TY_EUNSUPPORTED, "%s: %s is not the embedding; BLOOM's head is tied to it",
                    m->src.dir, lm_head);
    ty_checkpoint_release(&head);
    ty_checkpoint_release(&embd);
    return st;
}

static ty_status plan(import *m, ty_err *err) {
    ty_status st = TY_OK;
    m->used = calloc((size_t)ty_checkpoint_count(m->src.checkpoint) + 1, sizeof(*m->used));
    if (!m->used) return ty_fail(err, TY_ENOMEM, "no memory");
    if (m->src.vision) {
        st = ty_layout_vit(&m->layout[TY_STAGE_VIT], &m->src.vit, err);
        if (st == TY_OK)
            st = ty_layout_abstractor(&m->layout[TY_STAGE_ABSTRACTOR], &m->src.abstractor, err);
    }
    if (st == TY_OK) st = ty_layout_decoder(&m->layout[TY_STAGE_DECODER], &m->src.decoder, err);
    for (int k = 0; st == TY_OK && k < TY_STAGE_COUNT; k++)
        st = plan_types(m, (ty_stage_kind)k, err);
    if (st == TY_OK) st = check_tied_head(m, err);
    if (st == TY_OK) st = check_adapter(m, err);
    if (st == TY_OK) note_unknown(m);
    return st;
}

/* --- the vocabulary --- */

static ty_status read_added_tokens(import *m, ty_err *err) {
    json_t *o = NULL, *id;
    const char *text;
    ty_status st = source_json(&m->src, "added_tokens.json", &o, err);
    json_object_foreach(o, text, id) {
        if (st != TY_OK) break;
        st = json_is_integer(id) && json_integer_value(id) <= INT_MAX
                 ? vocab_rename(&m->words, (int)json_integer_value(id), text, err)
                 : ty_fail(err, TY_EFORMAT, "added_tokens.json: the id of \"%.64s\" is no number",
                           text);
    }
    json_decref(o);
    return st;
}

static ty_status read_tokenizer_config(import *m, ty_err *err) {
    json_t *o = NULL;
    ty_status st = source_json(&m->src, "tokenizer_config.json", &o, err);
    if (json_is_false(json_object_get(o, "add_bos_token"))) m->words.add_bos = false;
    if (json_is_true(json_object_get(o, "add_eos_token"))) m->words.add_eos = true;
    json_decref(o);
    return st;
}

static ty_status read_json_vocab(import *m, ty_err *err) {
    json_t *root = NULL;
    ty_status st = source_json(&m->src, "tokenizer.json", &root, err);
    if (st == TY_OK && !root)
        st = ty_fail(err, TY_ENOTFOUND,
                     "%s: has no tokenizer.json, nor has the directory above: copy the one of the "
                     "released model",
                     m->src.dir);
    if (st == TY_OK) st = vocab_from_json(&m->words, root, m->src.decoder.n_vocab, err);
    json_decref(root);
    return st;
}

static ty_status read_spm_vocab(import *m, ty_err *err) {
    char path[4400];
    ty_status st = source_find(&m->src, "tokenizer.model", path, sizeof(path), err);
    if (st == TY_OK) st = vocab_from_spm(&m->words, path, m->src.decoder.n_vocab, err);
    return st == TY_OK ? read_added_tokens(m, err) : st;
}

static ty_status read_vocab(import *m, ty_err *err) {
    vocab *v = &m->words;
    ty_status st = (m->src.decoder.bloom ? read_json_vocab : read_spm_vocab)(m, err);
    if (st == TY_OK) st = read_tokenizer_config(m, err);
    if (m->src.bos >= 0) v->bos = m->src.bos;
    if (m->src.eos >= 0) v->eos = m->src.eos;
    v->pad = m->src.pad;
    v->mode = m->src.tokenizer_mode;
    return st;
}

/* --- writing --- */

static ty_status write_stage(import *m, ty_stage_kind k, const volatile sig_atomic_t *stop,
                             ty_pipeline *p, ty_err *err) {
    char path[4200];
    if (k != TY_STAGE_DECODER && !m->src.vision) return TY_OK;
    snprintf(p->path[k], sizeof(p->path[k]), "%s.gguf", ty_stage_name(k));
    ty_status st = outdir_file(&m->out, p->path[k], path, sizeof(path), err);
    if (st != TY_OK) return st;
    const char *arch = stage_file_architecture(k, &m->src.decoder);
    stage_file f = {k, path,         arch,       &m->layout[k], m->type[k],
                    m, set_metadata, get_tensor, put_back};
    return stage_file_write(&f, &m->progress, stop, err);
}

static ty_status write_all(import *m, ty_err *err) {
    ty_pipeline p = {0};
    const volatile sig_atomic_t *stop = stage_file_catch_signals();
    snprintf(p.family, sizeof(p.family), "%s", m->src.family);
    ty_status st = TY_OK;
    for (int k = 0; st == TY_OK && k < TY_STAGE_COUNT; k++)
        st = write_stage(m, (ty_stage_kind)k, stop, &p, err);
    if (st == TY_OK) st = ty_pipeline_save(&p, m->out.tmp, err);
    return st == TY_OK ? outdir_commit(&m->out, err) : st;
}

/* Bytes of all files: tensors, and a header's worth for each. */
static uint64_t total_bytes(const import *m) {
    uint64_t n = 0;
    for (int k = 0; k < TY_STAGE_COUNT; k++) {
        stage_file f = {.layout = &m->layout[k], .type = m->type[k]};
        n += stage_file_bytes(&f);
    }
    return n;
}

static void print_notes(import *m) {
    for (char *line = m->src.notes, *nl; (nl = strchr(line, '\n')); line = nl + 1)
        progress_line(&m->progress, "%.*s", (int)(nl - line), line);
}

static ty_status run(import *m, const import_options *o, ty_err *err) {
    enum { HEADERS = 4 << 20 };
    char real[PATH_MAX];
    ty_status st = source_open(&m->src, o->src, err);
    if (st == TY_OK && o->adapter) st = ty_adapter_open(&m->adapter, o->adapter, err);
    if (st != TY_OK) return st;
    if (o->mode) m->src.preprocess.mode = o->mode;
    if (!realpath(o->src, real)) snprintf(real, sizeof(real), "%s", o->src);
    m->name = o->name ? o->name : basename(real);
    st = read_vocab(m, err);
    print_notes(m);
    if (st == TY_OK) st = plan(m, err);
    if (st == TY_OK) st = ty_pool_create(&m->pool, 0, err);
    if (st == TY_OK) st = outdir_begin(&m->out, o->out, err);
    if (st == TY_OK) st = ty_outfile_check_space(m->out.tmp, total_bytes(m) + HEADERS, err);
    if (st != TY_OK) return st;
    m->progress.total = total_bytes(m);
    st = write_all(m, err);
    progress_end(&m->progress);
    if (st == TY_OK && m->adapter)
        printf("%s: merged into %d tensors\n", m->adapter->dir, m->n_merged);
    if (st == TY_OK)
        printf("%s: %s, %.1f MiB\n", m->out.path, m->src.family, (double)total_bytes(m) / 1048576);
    return st;
}

static void clear(import *m) {
    put_back(m);
    outdir_abandon(&m->out);
    for (int k = 0; k < TY_STAGE_COUNT; k++) {
        ty_layout_clear(&m->layout[k]);
        free(m->type[k]);
    }
    free(m->used);
    vocab_clear(&m->words);
    ty_pool_destroy(&m->pool);
    ty_adapter_close(&m->adapter);
    source_close(&m->src);
}

ty_status import_pipeline(const import_options *o, ty_err *err) {
import m = {.types = o->types };
    progress_start(&m.progress, 0);
    ty_status st = run(&m, o, err);
    clear(&m);
    return st;
}

static ty_status parse_mode(import_options *o, const char *mode, ty_err *err) {
    int k = mode ? preprocess_mode_parse(mode) : -1;
    if (mode && k < 0)
        return ty_fail(err, TY_EINVAL, "--mode %s: want native, rgb, pad, resize or crop", mode);
    o->mode = mode ? preprocess_mode_name((preprocess_mode)k) : NULL;
    return TY_OK;
}

int cmd_import(int argc, char **argv) {
    static ty_option_list types;
    static const char *mode, *adapter;
    static const ty_option table[] = {
        TY_OPT_LIST("type", types, "[STAGE=]T", STAGE_TYPES_HELP),
        TY_OPT_STR("mode", NULL, mode, NULL, "MODE",
                   "how pictures become square: native, rgb, pad, resize or crop; absent: as the "
                   "checkpoint says"),
        TY_OPT_STR("adapter", NULL, adapter, NULL, "DIR",
                   "merge a LoRA adapter (PEFT's layout) into the weights"),
        TY_OPT_END,
    };
    const char *usage = "tyto import SRC OUT [--type T] [--type STAGE=T ...]";
    int rest;
    ty_options_next next = ty_options_parse(
        table, usage,
        "Makes a pipeline OUT of SRC, a Hugging Face checkpoint directory (safetensors or .bin, in "
        "one file or in\nshards) of mPLUG-Owl v1, mPLUG-Owl2, or a plain LLaMA or BLOOM. Without "
        "--type each "
        "tensor "
        "keeps "
        "its stored type.",
        argc, argv, &rest);
    if (next != TY_OPTIONS_GO) return next == TY_OPTIONS_DONE ? 0 : 2;
    if (argc - rest != 2) {
        fprintf(stderr, "tyto import: want SRC and OUT\nusage: %s\n", usage);
        return 2;
    }
    import_options o = {.src = argv[rest], .out = argv[rest + 1], .adapter = adapter};
    ty_err err = {0};
    if (stage_types_parse(&o.types, &types, &err) != TY_OK || parse_mode(&o, mode, &err) != TY_OK) {
        fprintf(stderr, "tyto import: %s\n", err.text);
        return 2;
    }
    ty_status st = import_pipeline(&o, &err);
    if (st != TY_OK) fprintf(stderr, "tyto import: %s\n", err.text);
    return st == TY_OK ? 0 : 1;
}
