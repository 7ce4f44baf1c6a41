#include "training/export.h"
#include "common/base/file.h"
#include "common/math/matmul.h"
#include "common/model/safetensors.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static bool is_adapter(const param *p) {
    return strncmp(p->name, "base_model.", 11) == 0;
}

/* ---- merging ---- */

typedef struct {
    const param *w;
    const owl_linear *found;
} search;

static ty_status look(void *ctx, const char *name, owl_linear *l, ty_err *err) {
    search *s = ctx;
    (void)name, (void)err;
    if (l->w == s->w && l->lora_a) s->found = l;
    return TY_OK;
}

/* w + scale b a, as floats; free() it. */
static ty_status merged(const owl_linear *l, float **out, ty_err *err) {
    const param *w = l->w, *a = l->lora_a, *b = l->lora_b;
    int64_t rank = a->shape[0];
    float *sum = malloc((size_t)w->count * sizeof *sum),
          *scaled = malloc((size_t)b->count * sizeof *scaled);
    ty_status st =
        sum && scaled ? TY_OK : ty_fail(err, TY_ENOMEM, "no memory to merge %s", w->name);
    if (st == TY_OK) {
        param_floats(w, 0, w->count, sum);
        for (int64_t i = 0; i < b->count; i++) scaled[i] = b->value[i] * l->scale;
        ty_matmul m = {.M = w->shape[0],
                       .N = w->shape[1],
                       .K = rank,
                       .a = scaled,
                       .lda = rank,
                       .b = a->value,
                       .b_type = TY_F32,
                       .ldb = w->shape[1],
                       .c = sum,
                       .ldc = w->shape[1],
                       .add = true};
        st = ty_matmul_run(&m, NULL, err);
    }
    free(scaled);
    if (st == TY_OK)
        *out = sum;
    else
        free(sum);
    return st;
}

/* ---- a whole model ---- */

static ty_status add_tensor(const owl *m, const ty_checkpoint *c, const char *name,
                            ty_safetensors_writer *w, ty_err *err) {
    const param *p = param_find(&m->params, name);
    search s = {p, NULL};
    if (p) owl_each_linear((owl *)m, look, &s, NULL);
    if (p && p->train)
        return ty_safetensors_add(w, name, TY_F32, p->n_dim, p->shape, p->value, err);
    ty_loaded l = {0};
    float *sum = NULL;
    ty_status st = s.found ? merged(s.found, &sum, err) : ty_checkpoint_load(c, name, &l, err);
    if (st == TY_OK)
        st = sum ? ty_safetensors_add(w, name, TY_F32, p->n_dim, p->shape, sum, err)
                 : ty_safetensors_add(w, name, l.t.dtype, l.t.n_dim, l.t.shape, l.t.data, err);
    ty_checkpoint_release(&l);
    free(sum);
    return st;
}

/* dir/config.json with the model's number of layers. */
static ty_status count_layers(const owl *m, const char *dir, ty_err *err) {
    char path[4200];
    json_error_t bad;
    snprintf(path, sizeof path, "%s/config.json", dir);
    json_t *config = json_load_file(path, 0, &bad),
           *of = m->version == 1 ? json_object_get(config, "text_config") : config;
    int rc = json_object_set_new(of, "num_hidden_layers", json_integer(m->llm.n_layer));
    char *text = rc == 0 ? json_dumps(config, JSON_INDENT(2)) : NULL;
    ty_status st = text ? ty_file_write_atomic(path, text, strlen(text), err)
                        : ty_fail(err, TY_EFORMAT, "%s: no place for the number of layers", path);
    free(text);
    json_decref(config);
    return st;
}

static ty_status copy_small_files(const char *from, const char *dir, ty_err *err) {
    static const char *const FILES[] = {"config.json",
                                        "generation_config.json",
                                        "tokenizer.model",
                                        "tokenizer_config.json",
                                        "special_tokens_map.json",
                                        "added_tokens.json",
                                        "preprocessor_config.json"};
    ty_status st = TY_OK;
    for (size_t i = 0; i < sizeof FILES / sizeof *FILES && st == TY_OK; i++) {
        char path[4200], *data = NULL;
        size_t n;
        snprintf(path, sizeof path, "%s/%s", from, FILES[i]);
        st = ty_file_read(path, (size_t)64 << 20, &data, &n, err);
        if (st == TY_ENOTFOUND) {
            st = TY_OK;
            continue;
        }
        snprintf(path, sizeof path, "%s/%s", dir, FILES[i]);
        if (st == TY_OK) st = ty_file_write_atomic(path, data, n, err);
        free(data);
    }
    return st;
}

/* All of the model that the checkpoint does not have: new layers, or everything (c NULL). */
static ty_status add_missing(const owl *m, const ty_checkpoint *c, ty_safetensors_writer *w,
                             ty_err *err) {
    ty_status st = TY_OK;
    for (int i = 0; i < m->params.n && st == TY_OK; i++) {
        const param *p = m->params.item[i];
        float *sum = NULL;
        search s = {p, NULL};
        if (is_adapter(p) || p == m->cells.w || (c && ty_checkpoint_has(c, p->name))) continue;
        owl_each_linear((owl *)m, look, &s, NULL);
        if (s.found && !p->train) st = merged(s.found, &sum, err);
        if (st == TY_OK)
            st = ty_safetensors_add(w, p->name, sum ? TY_F32 : p->type, p->n_dim, p->shape,
                                    sum ? (const void *)sum : p->data, err);
        free(sum);
    }
    return st;
}

ty_status export_model(const owl *m, const char *from, bool is_new, int new_layers, const char *dir,
                       ty_err *err) {
    ty_checkpoint *c = NULL;
    ty_safetensors_writer *w = NULL;
    char path[4200];
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        return ty_fail(err, TY_EIO, "%s: %s", dir, strerror(errno));
    ty_status st = ty_safetensors_writer_create(&w, err);
    if (st == TY_OK && !is_new) st = ty_checkpoint_open(&c, from, err);
    for (int i = 0; st == TY_OK && c && i < ty_checkpoint_count(c); i++)
        st = add_tensor(m, c, ty_checkpoint_name(c, i), w, err);
    if (st == TY_OK && (is_new || new_layers)) st = add_missing(m, c, w, err);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    if (st == TY_OK) st = copy_small_files(from, dir, err);
    if (st == TY_OK && new_layers) st = count_layers(m, dir, err);
    if (st == TY_OK) st = ty_safetensors_write(w, path, err);
    ty_safetensors_writer_destroy(&w);
    ty_checkpoint_close(&c);
    return st;
}

ty_status export_trained(const owl *m, const char *path, ty_err *err) {
    ty_safetensors_writer *w = NULL;
    int n = 0;
    ty_status st = ty_safetensors_writer_create(&w, err);
    for (int i = 0; i < m->params.n && st == TY_OK; i++) {
        const param *p = m->params.item[i];
        if (!p->train || is_adapter(p)) continue;
        n++;
        st = ty_safetensors_add(w, p->name, TY_F32, p->n_dim, p->shape, p->value, err);
    }
    if (st == TY_OK && n > 0) st = ty_safetensors_write(w, path, err);
    ty_safetensors_writer_destroy(&w);
    return st;
}
