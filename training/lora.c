#include "training/lora.h"
#include "common/base/file.h"
#include "common/model/adapter.h"
#include "common/model/safetensors.h"
#include "training/random.h"

#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char BASE[] = "base_model.model.";

/* ---- adding ---- */

typedef struct {
    owl *m;
    const lora_spec *spec;
    regex_t expression;
    uint64_t seed;
    int n;
} adding;

static bool matches(const regex_t *e, const char *name) {
    regmatch_t at;
    return regexec(e, name, 1, &at, 0) == 0 && at.rm_so == 0 && name[at.rm_eo] == 0;
}

static ty_status add_one(void *ctx, const char *name, owl_linear *l, ty_err *err) {
    adding *a = ctx;
    char full[PARAM_NAME + 64];
    int64_t in = l->w->shape[1], out = l->w->shape[0], r = a->spec->rank;
    if (!matches(&a->expression, name)) return TY_OK;
    snprintf(full, sizeof full, "%s%s.lora_A.default.weight", BASE, name);
    ty_status st = param_new(&a->m->params, full, 2, (int64_t[]){r, in}, &l->lora_a, err);
    if (st != TY_OK) return st;
    random_uniform(a->seed, (uint64_t)a->n, 1 / sqrt((double)in), l->lora_a->count,
                   l->lora_a->value);
    snprintf(full, sizeof full, "%s%s.lora_B.default.weight", BASE, name);
    l->scale = (float)(a->spec->alpha / (double)r);
    l->lora_id = a->n++;
    return param_new(&a->m->params, full, 2, (int64_t[]){out, r}, &l->lora_b, err);
}

ty_status lora_add(owl *m, const lora_spec *spec, uint64_t seed, ty_err *err) {
    adding a = {.m = m, .spec = spec, .seed = seed};
    if (regcomp(&a.expression, spec->target, REG_EXTENDED) != 0)
        return ty_fail(err, TY_EINVAL, "LoRA target \"%.200s\" is no regular expression",
                       spec->target);
    ty_status st = owl_each_linear(m, add_one, &a, err);
    regfree(&a.expression);
    if (st == TY_OK && a.n == 0)
        return ty_fail(err, TY_EINVAL,
                       "LoRA target \"%.200s\" matches no linear layer of the language model",
                       spec->target);
    return st;
}

/* ---- adapter_config.json ---- */

ty_status lora_read_spec(lora_spec *spec, const char *dir, ty_err *err) {
    ty_adapter *a = NULL;
    ty_status st = ty_adapter_open(&a, dir, err);
    if (st != TY_OK) return st;
    spec->rank = a->rank;
    spec->alpha = a->alpha;
    memcpy(spec->target, a->target, sizeof spec->target);
    ty_adapter_close(&a);
    return TY_OK;
}

static json_t *config_of(const lora_spec *spec, const char *base) {
    return json_pack("{s:s, s:s, s:i, s:f, s:f, s:s, s:s, s:b, s:b, s:b, s:n, s:n, s:n}",
                     "peft_type", "LORA", "base_model_name_or_path", base, "r", spec->rank,
                     "lora_alpha", spec->alpha, "lora_dropout", spec->dropout, "bias", "none",
                     "target_modules", spec->target, "fan_in_fan_out", 0, "inference_mode", 1,
                     "init_lora_weights", 1, "modules_to_save", "task_type", "layers_to_transform");
}

/* ---- values ---- */

/* "...lora_A.default.weight" -> "...lora_A.weight", PEFT's name in a file. */
static void file_name(const char *name, char *out, size_t size) {
    const char *part = strstr(name, ".default.weight");
    snprintf(out, size, "%.*s.weight", part ? (int)(part - name) : 0, name);
}

static bool is_adapter(const param *p) {
    return strncmp(p->name, BASE, sizeof BASE - 1) == 0;
}

static ty_status load_one(void *ctx, const char *name, owl_linear *l, ty_err *err) {
    const ty_adapter *a = ctx;
    if (!l->lora_a) return TY_OK;
    const ty_adapter_pair *p = ty_adapter_find(a, name, strlen(name));
    if (!p) return ty_fail(err, TY_ENOTFOUND, "%s: has no %s", a->dir, name);
    if (p->in != l->lora_a->shape[1] || p->out != l->lora_b->shape[0] ||
        p->rank != l->lora_a->shape[0])
        return ty_fail(err, TY_ESHAPE, "%s: %s does not fit the model", a->dir, name);
    memcpy(l->lora_a->value, p->a, (size_t)l->lora_a->count * sizeof(float));
    memcpy(l->lora_b->value, p->b, (size_t)l->lora_b->count * sizeof(float));
    return TY_OK;
}

ty_status lora_load(owl *m, const char *dir, ty_err *err) {
    ty_adapter *a = NULL;
    ty_status st = ty_adapter_open(&a, dir, err);
    if (st == TY_OK) st = owl_each_linear(m, load_one, a, err);
    ty_adapter_close(&a);
    return st;
}

ty_status lora_save(const owl *m, const lora_spec *spec, const char *base, const char *dir,
                    ty_err *err) {
    ty_safetensors_writer *w = NULL;
    char path[4200];
    if (mkdir(dir, 0777) != 0 && errno != EEXIST)
        return ty_fail(err, TY_EIO, "%s: %s", dir, strerror(errno));
    ty_status st = ty_safetensors_writer_create(&w, err);
    for (int i = 0; i < m->params.n && st == TY_OK; i++) {
        const param *p = m->params.item[i];
        char name[PARAM_NAME];
        if (!is_adapter(p)) continue;
        file_name(p->name, name, sizeof name);
        st = ty_safetensors_add(w, name, TY_F32, 2, p->shape, p->value, err);
    }
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", dir);
    if (st == TY_OK) st = ty_safetensors_write(w, path, err);
    ty_safetensors_writer_destroy(&w);
    if (st != TY_OK) return st;
    json_t *o = config_of(spec, base);
    char *text = o ? json_dumps(o, JSON_INDENT(2)) : NULL;
    snprintf(path, sizeof path, "%s/adapter_config.json", dir);
    st = text ? ty_file_write_atomic(path, text, strlen(text), err)
              : ty_fail(err, TY_ENOMEM, "no memory for %s", path);
    free(text);
    json_decref(o);
    return st;
}
