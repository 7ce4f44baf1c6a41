#include "training/lora.h"
#include "common/base/file.h"
#include "common/model/safetensors.h"
#include "common/model/torch_bin.h"
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
    a->n++;
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

/* "name" of a list: a module whose last part it is. */
static ty_status list_to_expression(const json_t *list, char *out, size_t size) {
    size_t at = (size_t)snprintf(out, size, "(.*\\.)?(");
    size_t i;
    const json_t *j;
    json_array_foreach(list, i, j) {
        const char *name = json_string_value(j);
        if (!name || at + strlen(name) + 4 > size) return TY_EFORMAT;
        at += (size_t)snprintf(out + at, size - at, "%s%s", i ? "|" : "", name);
    }
    snprintf(out + at, size - at, ")");
    return TY_OK;
}

ty_status lora_read_spec(lora_spec *spec, const char *dir, ty_err *err) {
    char path[4200], *text = NULL;
    size_t size;
    snprintf(path, sizeof path, "%s/adapter_config.json", dir);
    ty_status st = ty_file_read(path, 1 << 20, &text, &size, err);
    if (st != TY_OK) return st;
    json_t *o = json_loadb(text, size, 0, NULL);
    const json_t *r = json_object_get(o, "r"), *alpha = json_object_get(o, "lora_alpha");
    const json_t *target = json_object_get(o, "target_modules");
    free(text);
    spec->rank = (int)json_integer_value(r);
    spec->alpha = json_number_value(alpha);
    if (spec->rank < 1 || spec->rank > 1 << 16 || !(spec->alpha > 0))
        st = ty_fail(err, TY_EFORMAT, "%s: want r >= 1 and lora_alpha > 0", path);
    else if (json_is_array(target))
        st = list_to_expression(target, spec->target, sizeof spec->target);
    else if (json_is_string(target) && json_string_length(target) < sizeof spec->target)
        memcpy(spec->target, json_string_value(target), json_string_length(target) + 1);
    else
        st = TY_EFORMAT;
    json_decref(o);
    if (st == TY_EFORMAT && err && !err->text[0])
        return ty_fail(err, st, "%s: target_modules is no text and no list of names", path);
    return st;
}

static json_t *config_of(const lora_spec *spec, const char *base) {
    return json_pack("{s:s, s:s, s:i, s:f, s:f, s:s, s:s, s:b, s:b, s:b, s:n, s:n, s:n}",
                     "peft_type", "LORA", "base_model_name_or_path", base, "r", spec->rank,
                     "lora_alpha", spec->alpha, "lora_dropout", 0.0, "bias", "none",
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

static ty_status copy_value(param *p, const ty_tensor *t, const char *dir, ty_err *err) {
    if (t->n_dim != 2 || t->shape[0] != p->shape[0] || t->shape[1] != p->shape[1])
        return ty_fail(err, TY_ESHAPE, "%s: %s does not fit the model", dir, p->name);
    ty_dtype_to_f32(t->dtype, t->data, 0, (size_t)p->count, p->value);
    return TY_OK;
}

static ty_status load_safetensors(owl *m, const char *path, ty_err *err) {
    ty_safetensors *file = NULL;
    ty_status st = ty_safetensors_open(&file, path, err);
    for (int i = 0; i < m->params.n && st == TY_OK; i++) {
        char name[PARAM_NAME];
        ty_tensor t;
        if (!is_adapter(m->params.item[i])) continue;
        file_name(m->params.item[i]->name, name, sizeof name);
        st = ty_safetensors_find(file, name, &t, err);
        if (st == TY_OK) st = copy_value(m->params.item[i], &t, path, err);
    }
    ty_safetensors_close(&file);
    return st;
}

static ty_status load_bin(owl *m, const char *path, ty_err *err) {
    ty_torch_bin *file = NULL;
    ty_status st = ty_torch_bin_open(&file, path, err);
    for (int i = 0; i < m->params.n && st == TY_OK; i++) {
        char name[PARAM_NAME];
        int k = 0;
        if (!is_adapter(m->params.item[i])) continue;
        file_name(m->params.item[i]->name, name, sizeof name);
        while (k < ty_torch_bin_count(file) && strcmp(ty_torch_bin_name(file, k), name) != 0) k++;
        if (k == ty_torch_bin_count(file)) {
            st = ty_fail(err, TY_ENOTFOUND, "%s: has no %s", path, name);
            break;
        }
        ty_tensor t;
        void *owned = NULL;
        st = ty_torch_bin_load(file, k, &t, &owned, err);
        if (st == TY_OK) st = copy_value(m->params.item[i], &t, path, err);
        free(owned);
    }
    ty_torch_bin_close(&file);
    return st;
}

ty_status lora_load(owl *m, const char *dir, ty_err *err) {
    char path[4200];
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", dir);
    if (access(path, F_OK) == 0) return load_safetensors(m, path, err);
    snprintf(path, sizeof path, "%s/adapter_model.bin", dir);
    if (access(path, F_OK) == 0) return load_bin(m, path, err);
    return ty_fail(err, TY_ENOTFOUND, "%s: neither adapter_model.safetensors nor adapter_model.bin",
                   dir);
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
