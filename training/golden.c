#include "training/golden.h"
#include "common/base/file.h"
#include "common/model/safetensors.h"
#include "training/adamw.h"
#include "training/lora.h"
#include "training/pass.h"

#include <jansson.h>
#include <stdio.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { STEPS = 5 };

typedef struct {
    const char *dir, *name;
    json_t *json;
    const json_t *training; /* training.RUN */
    ty_safetensors *file;
    owl *m;
    bool lora;
    owl_batch batch;
    float *pixels;
    int32_t *ids; /* the samples' ids and labels point here */
    adamw optimizer;
    double lr, max_norm;
    ty_safetensors_writer *writer;
} golden;

/* ---- golden.json ---- */

static ty_status read_json(golden *g, ty_err *err) {
    char path[4200], *text = NULL;
    size_t size;
    json_error_t bad;
    snprintf(path, sizeof path, "%s/golden.json", g->dir);
    ty_status st = ty_file_read(path, (size_t)1 << 30, &text, &size, err);
    if (st != TY_OK) return st;
    g->json = json_loadb(text, size, 0, &bad);
    free(text);
    if (!g->json) return ty_fail(err, TY_EFORMAT, "%s: line %d: %s", path, bad.line, bad.text);
    g->training = json_object_get(json_object_get(g->json, "training"), g->name);
    if (!json_is_object(json_object_get(g->training, "grad_l2")))
        return ty_fail(err, TY_ENOTFOUND, "%s has no training.%s with grad_l2", path, g->name);
    return TY_OK;
}

static double number(const json_t *o, const char *key, double absent) {
    const json_t *j = json_object_get(o, key);
    return json_is_number(j) ? json_number_value(j) : absent;
}

static ty_status read_hyper(golden *g, ty_err *err) {
    const json_t *h = json_object_get(g->training, "hyper"), *betas = json_object_get(h, "betas");
    const char *name = json_string_value(json_object_get(h, "optimizer"));
    int kind = name ? adamw_parse(name) : -1;
    if (kind < 0)
        return ty_fail(err, TY_EUNSUPPORTED,
                       "training.%s: optimizer \"%.40s\" is neither adamw_hf nor adamw_torch",
                       g->name, name ? name : "");
    g->optimizer = (adamw){.kind = (adamw_kind)kind,
                           .beta1 = 0.9,
                           .beta2 = 0.999,
                           .eps = number(h, "eps", 1e-8),
                           .weight_decay = number(h, "weight_decay", 0)};
    if (json_array_size(betas) == 2) {
        g->optimizer.beta1 = json_number_value(json_array_get(betas, 0));
        g->optimizer.beta2 = json_number_value(json_array_get(betas, 1));
    }
    g->lr = number(h, "lr", 0);
    g->max_norm = number(h, "max_grad_norm", 0);
    return TY_OK;
}

static bool trains(void *ctx, const char *name) {
    const golden *g = ctx;
    return json_object_get(json_object_get(g->training, "grad_l2"), name) != NULL;
}

/* Every name that the run trains is there and trains; which decay stands in no_decay. */
static ty_status check_names(golden *g, ty_err *err) {
    const char *name;
    json_t *value, *exempt = json_object_get(g->training, "no_decay");
    size_t i;
    json_object_foreach(json_object_get(g->training, "grad_l2"), name, value) {
        const param *p = param_find(&g->m->params, name);
        if (!p || !p->train)
            return ty_fail(err, TY_ENOTFOUND, "%s: training.%s wants %s, which the model has not",
                           g->dir, g->name, name);
    }
    if (!json_is_array(exempt)) return TY_OK;
    for (int k = 0; k < g->m->params.n; k++) g->m->params.item[k]->decay = true;
    json_array_foreach(exempt, i, value) {
        param *p =
            json_string_value(value) ? param_find(&g->m->params, json_string_value(value)) : NULL;
        if (p) p->decay = false;
    }
    return TY_OK;
}

static ty_status open_model(golden *g, ty_err *err) {
    const char *name;
    json_t *value;
    json_object_foreach(json_object_get(g->training, "grad_l2"), name, value) {
        g->lora |= strstr(name, ".lora_") != NULL;
    }
    ty_status st = owl_open(&g->m, g->dir, trains, g, -1, 0, 0, err);
    if (st == TY_OK && g->lora) {
        char dir[4200];
        lora_spec spec;
        snprintf(dir, sizeof dir, "%s/lora-adapter", g->dir);
        st = lora_read_spec(&spec, dir, err);
        if (st == TY_OK) st = lora_add(g->m, &spec, 0, err);
        if (st == TY_OK) st = lora_load(g->m, dir, err);
    }
    if (st == TY_OK) st = check_names(g, err);
    if (st == TY_OK) st = param_settle(&g->m->params, 0, 1, err);
    return st;
}

/* ---- the batch ---- */

static ty_status find(golden *g, const char *name, int n_dim, ty_tensor *t, ty_err *err) {
    char full[128];
    snprintf(full, sizeof full, "train/batchA/%s", name);
    ty_status st = ty_safetensors_find(g->file, full, t, err);
    if (st == TY_OK && t->n_dim != n_dim)
        return ty_fail(err, TY_ESHAPE, "%s: %s has %d dimensions, want %d", g->dir, full, t->n_dim,
                       n_dim);
    return st;
}

static ty_status read_pixels(golden *g, const char *name, int *n, ty_err *err) {
    ty_tensor t;
    ty_status st = find(g, name, 4, &t, err);
    if (st != TY_OK) return st;
    int64_t s = g->m->vit.image_size;
    if (t.shape[1] != 3 || t.shape[2] != s || t.shape[3] != s)
        return ty_fail(err, TY_ESHAPE, "%s: pictures are not [n,3,%lld,%lld]", g->dir, (long long)s,
                       (long long)s);
    size_t count = (size_t)ty_tensor_count(&t);
    g->pixels = malloc((count + 1) * sizeof *g->pixels);
    if (!g->pixels) return ty_fail(err, TY_ENOMEM, "no memory for the batch's pictures");
    ty_dtype_to_f32(t.dtype, t.data, 0, count, g->pixels);
    *n = (int)t.shape[0];
    return TY_OK;
}

static int32_t integer(const ty_tensor *t, int64_t i) {
    return t->dtype == TY_I64 ? (int32_t)((const int64_t *)t->data)[i]
                              : ((const int32_t *)t->data)[i];
}

static ty_status integers(const ty_tensor *t, const char *name, ty_err *err) {
    if (t->dtype == TY_I32 || t->dtype == TY_I64) return TY_OK;
    return ty_fail(err, TY_ESHAPE, "train/batchA/%s is %s, want whole numbers", name,
                   ty_dtype_name((int)t->dtype));
}

/* v1: labels are masked already, num_images says how many each sample has.  v2: one picture for each
 * sample, and attention_mask says where padding begins. */
static ty_status read_batch(golden *g, ty_err *err) {
    bool v2 = g->m->version == 2;
    const char *label_name = v2 ? "labels" : "labels_final";
    ty_tensor id, label, count = {0};
    int n_picture = 0;
    ty_status st = find(g, "input_ids", 2, &id, err);
    if (st == TY_OK) st = find(g, label_name, 2, &label, err);
    if (st == TY_OK)
        st = v2 ? find(g, "attention_mask", 2, &count, err) : find(g, "num_images", 1, &count, err);
    if (st == TY_OK) st = integers(&id, "input_ids", err);
    if (st == TY_OK) st = integers(&label, label_name, err);
    if (st == TY_OK) st = integers(&count, v2 ? "attention_mask" : "num_images", err);
    if (st == TY_OK && (label.shape[0] != id.shape[0] || label.shape[1] != id.shape[1] ||
                        count.shape[0] != id.shape[0]))
        st =
            ty_fail(err, TY_ESHAPE, "%s: ids, labels and counts of batchA differ in shape", g->dir);
    if (st == TY_OK) st = read_pixels(g, v2 ? "images" : "pixel_values", &n_picture, err);
    if (st != TY_OK) return st;
    int64_t n = id.shape[0], length = id.shape[1], total = 0;
    g->ids = malloc(2 * (size_t)(n * length + 1) * sizeof *g->ids);
    owl_sample *sample = calloc((size_t)n + 1, sizeof *sample);
    if (!g->ids || !sample) st = ty_fail(err, TY_ENOMEM, "no memory for the batch");
    for (int64_t i = 0; i < n * length && st == TY_OK; i++) {
        bool padding = v2 && integer(&count, i) == 0;
        g->ids[i] = padding ? 0 : integer(&id, i);
        g->ids[n * length + i] = padding ? OWL_IGNORE : integer(&label, i);
    }
    for (int64_t s = 0; s < n && st == TY_OK; s++) {
        sample[s] = (owl_sample){g->ids + s * length, g->ids + (n + s) * length, (int)length,
                                 v2 ? 1 : integer(&count, s)};
        total += sample[s].n_picture;
    }
    if (st == TY_OK && total != n_picture)
        st = ty_fail(err, TY_ESHAPE, "%s: batchA has %d pictures, its samples want %lld", g->dir,
                     n_picture, (long long)total);
    if (st == TY_OK)
        st = owl_batch_make(&g->batch, g->m->version, g->m->abstractor.n_query + 1,
                            g->m->llm.n_vocab, g->m->llm.n_ctx, sample, (int)n, g->pixels, err);
    free(sample);
    if (st == TY_OK && g->batch.n_target == 0)
        st = ty_fail(err, TY_EINVAL, "%s: batchA has nothing to learn from", g->dir);
    return st;
}

/* ---- the steps ---- */

static ty_status put(golden *g, const char *kind, bool gradients, ty_err *err) {
    ty_status st = TY_OK;
    for (int i = 0; i < g->m->params.n && st == TY_OK; i++) {
        const param *p = g->m->params.item[i];
        char name[PARAM_NAME + 128];
        if (!p->train) continue;
        snprintf(name, sizeof name, "%s/%s/%s", g->name, kind, p->name);
        st = ty_safetensors_add(g->writer, name, TY_F32, p->n_dim, p->shape,
                                gradients ? p->grad : p->value, err);
    }
    return st;
}

static ty_status put_numbers(golden *g, const char *kind, const float *x, int64_t n, ty_err *err) {
    char name[PARAM_NAME + 64];
    snprintf(name, sizeof name, "%s/%s", g->name, kind);
    return ty_safetensors_add(g->writer, name, TY_F32, 1, &n, x, err);
}

static ty_status train(golden *g, train_run *r, ty_err *err) {
    param_set *s = &g->m->params;
    float losses[STEPS + 1], norms[STEPS], weight = 1.0f / (float)g->batch.n_target;
    ty_status st = TY_OK;
    for (int step = 0; step <= STEPS && st == TY_OK; step++) {
        double loss;
        param_zero_grads(s);
        st = pass_run(r, g->m, &g->batch, weight, step < STEPS, &loss, err);
        losses[step] = (float)(loss * (double)weight);
        if (st != TY_OK || step == STEPS) break;
        double norm = sqrt(adamw_grad_squares(s, r->pool));
        norms[step] = (float)norm;
        if (step == 0) st = put(g, "grad", true, err);
        adamw_step(&g->optimizer, s, r->pool, step + 1, g->lr, adamw_clip(norm, g->max_norm));
        if (st == TY_OK && step == 0) st = put(g, "param_step1", false, err);
    }
    if (st == TY_OK) st = put(g, "param_step5", false, err);
    if (st == TY_OK) st = put_numbers(g, "losses", losses, STEPS + 1, err);
    if (st == TY_OK) st = put_numbers(g, "grad_norms", norms, STEPS, err);
    return st;
}

ty_status golden_run(const char *dir, const char *run, const char *out, bool recompute,
                     ty_pool *pool, ty_err *err) {
    golden g = {.dir = dir, .name = run};
    train_run r = {.pool = pool,
                   .arena = ty_arena_create(0),
                   .parts = ty_pool_size(pool), /* so that the goldens see parts too */
                   .recompute = recompute};
    char path[4200];
    snprintf(path, sizeof path, "%s/golden.safetensors", dir);
    ty_status st = r.arena ? TY_OK : ty_fail(err, TY_ENOMEM, "no memory");
    if (st == TY_OK) st = read_json(&g, err);
    if (st == TY_OK) st = read_hyper(&g, err);
    if (st == TY_OK) st = open_model(&g, err);
    if (st == TY_OK) st = ty_safetensors_open(&g.file, path, err);
    if (st == TY_OK) st = read_batch(&g, err);
    if (st == TY_OK) st = ty_safetensors_writer_create(&g.writer, err);
    if (st == TY_OK) st = train(&g, &r, err);
    if (st == TY_OK) st = ty_safetensors_write(g.writer, out, err);
    ty_safetensors_writer_destroy(&g.writer);
    owl_batch_clear(&g.batch);
    free(g.pixels);
    free(g.ids);
    owl_close(&g.m);
    ty_safetensors_close(&g.file);
    json_decref(g.json);
    train_run_clear(&r);
    ty_arena_destroy(&r.arena);
    return st;
}
