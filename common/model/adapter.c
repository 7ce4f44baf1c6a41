#include "common/model/adapter.h"
#include "common/base/file.h"
#include "common/math/matmul.h"
#include "common/model/safetensors.h"
#include "common/model/torch_bin.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

static const char PREFIX[] = "base_model.model.";

/* ---- adapter_config.json ---- */

static ty_status refuse_other_forms(const char *path, const json_t *o, ty_err *err) {
    static const char *const OTHER[] = {"use_dora", "use_rslora", "fan_in_fan_out"},
                             *const PATTERNS[] = {"rank_pattern", "alpha_pattern"};
    const char *type = json_string_value(json_object_get(o, "peft_type"));
    const char *bias = json_string_value(json_object_get(o, "bias"));
    if (type && strcmp(type, "LORA") != 0)
        return ty_fail(err, TY_EUNSUPPORTED, "%s: peft_type is %.40s, want LORA", path, type);
    if (bias && strcmp(bias, "none") != 0)
        return ty_fail(err, TY_EUNSUPPORTED, "%s: bias is \"%.40s\", want \"none\"", path, bias);
    for (size_t i = 0; i < sizeof OTHER / sizeof *OTHER; i++)
        if (json_is_true(json_object_get(o, OTHER[i])))
            return ty_fail(err, TY_EUNSUPPORTED, "%s: %s is not supported", path, OTHER[i]);
    for (size_t i = 0; i < sizeof PATTERNS / sizeof *PATTERNS; i++)
        if (json_object_size(json_object_get(o, PATTERNS[i])) > 0)
            return ty_fail(err, TY_EUNSUPPORTED, "%s: %s is not supported", path, PATTERNS[i]);
    if (json_array_size(json_object_get(o, "modules_to_save")) > 0)
        return ty_fail(err, TY_EUNSUPPORTED, "%s: modules_to_save is not supported", path);
    return TY_OK;
}

/* ["q_proj", "v_proj"] means modules whose name ends so. */
static bool list_to_expression(const json_t *list, char *out, size_t size) {
    size_t at = (size_t)snprintf(out, size, "(.*\\.)?(");
    size_t i;
    const json_t *j;
    json_array_foreach(list, i, j) {
        const char *name = json_string_value(j);
        if (!name || at + strlen(name) + 4 > size) return false;
        at += (size_t)snprintf(out + at, size - at, "%s%s", i ? "|" : "", name);
    }
    snprintf(out + at, size - at, ")");
    return true;
}

static bool read_target(ty_adapter *a, const json_t *target) {
    if (json_is_array(target)) return list_to_expression(target, a->target, sizeof a->target);
    if (!json_is_string(target) || json_string_length(target) >= sizeof a->target) return false;
    memcpy(a->target, json_string_value(target), json_string_length(target) + 1);
    return true;
}

static ty_status read_config(ty_adapter *a, ty_err *err) {
    char path[4200], *text = NULL;
    size_t size;
    snprintf(path, sizeof path, "%s/adapter_config.json", a->dir);
    ty_status st = ty_file_read(path, 1 << 20, &text, &size, err);
    if (st != TY_OK) return st;
    json_t *o = json_loadb(text, size, 0, NULL);
    free(text);
    if (!json_is_object(o)) {
        json_decref(o);
        return ty_fail(err, TY_EFORMAT, "%s is no JSON object", path);
    }
    json_int_t rank = json_integer_value(json_object_get(o, "r"));
    a->alpha = json_number_value(json_object_get(o, "lora_alpha"));
    if (rank < 1 || rank > 1 << 16 || !(a->alpha > 0))
        st = ty_fail(err, TY_EFORMAT, "%s: want a whole r >= 1 and a lora_alpha > 0", path);
    else if (!read_target(a, json_object_get(o, "target_modules")))
        st = ty_fail(err, TY_EFORMAT, "%s: target_modules is no text and no list of names", path);
    else
        st = refuse_other_forms(path, o, err);
    a->rank = (int)rank;
    json_decref(o);
    return st;
}

/* ---- tensors ---- */

static ty_adapter_pair *pair_of(ty_adapter *a, const char *module, size_t len) {
    ty_adapter_pair *p = (ty_adapter_pair *)ty_adapter_find(a, module, len);
    if (p) return p;
    ty_adapter_pair *more = realloc(a->pair, ((size_t)a->n + 1) * sizeof *more);
    if (!more) return NULL;
    a->pair = more;
    p = &a->pair[a->n];
    memset(p, 0, sizeof *p);
    p->module = strndup(module, len);
    if (!p->module) return NULL;
    a->n++;
    return p;
}

static ty_status add_tensor(void *ctx, const char *name, const ty_tensor *t, ty_err *err) {
    ty_adapter *a = ctx;
    static const char A[] = ".lora_A.weight", B[] = ".lora_B.weight";
    size_t len = strlen(name), head = sizeof PREFIX - 1, tail = sizeof A - 1;
    bool known = len > head + tail && strncmp(name, PREFIX, head) == 0, is_a = false;
    if (known) {
        is_a = strcmp(name + len - tail, A) == 0;
        known = is_a || strcmp(name + len - tail, B) == 0;
    }
    if (!known)
        return ty_fail(err, TY_EUNSUPPORTED, "%s: tensor %s is no LoRA matrix of a linear layer",
                       a->dir, name);
    if (t->n_dim != 2 || t->shape[0] < 1 || t->shape[1] < 1)
        return ty_fail(err, TY_ESHAPE, "%s: tensor %s is no matrix", a->dir, name);
    ty_adapter_pair *p = pair_of(a, name + head, len - head - tail);
    size_t n = (size_t)ty_tensor_count(t);
    float *x = malloc(n * sizeof *x);
    if (!p || !x) {
        free(x);
        return ty_fail(err, TY_ENOMEM, "no memory for %s", name);
    }
    ty_dtype_to_f32(t->dtype, t->data, 0, n, x);
    float **to = is_a ? &p->a : &p->b;
    free(*to);
    *to = x;
    int64_t rank = t->shape[is_a ? 0 : 1];
    *(is_a ? &p->in : &p->out) = t->shape[is_a ? 1 : 0];
    if (p->rank && p->rank != rank)
        return ty_fail(err, TY_ESHAPE, "%s: A and B of %s have ranks %lld and %lld", a->dir,
                       p->module, (long long)p->rank, (long long)rank);
    p->rank = rank;
    return TY_OK;
}

static ty_status read_safetensors(ty_adapter *a, const char *path, ty_err *err) {
    ty_safetensors *file = NULL;
    ty_status st = ty_safetensors_open(&file, path, err);
    for (int i = 0; st == TY_OK && i < ty_safetensors_count(file); i++) {
        ty_tensor t;
        ty_safetensors_tensor(file, i, &t);
        st = add_tensor(a, ty_safetensors_name(file, i), &t, err);
    }
    ty_safetensors_close(&file);
    return st;
}

static ty_status read_bin(ty_adapter *a, const char *path, ty_err *err) {
    ty_torch_bin *file = NULL;
    ty_status st = ty_torch_bin_open(&file, path, err);
    for (int i = 0; st == TY_OK && i < ty_torch_bin_count(file); i++) {
        ty_tensor t;
        void *owned = NULL;
        st = ty_torch_bin_load(file, i, &t, &owned, err);
        if (st == TY_OK) st = add_tensor(a, ty_torch_bin_name(file, i), &t, err);
        free(owned);
    }
    ty_torch_bin_close(&file);
    return st;
}

static ty_status read_tensors(ty_adapter *a, ty_err *err) {
    char path[4200];
    ty_status st;
    snprintf(path, sizeof path, "%s/adapter_model.safetensors", a->dir);
    if (access(path, F_OK) == 0) {
        st = read_safetensors(a, path, err);
    } else {
        snprintf(path, sizeof path, "%s/adapter_model.bin", a->dir);
        if (access(path, F_OK) != 0)
            return ty_fail(err, TY_ENOTFOUND,
                           "%s: neither adapter_model.safetensors nor adapter_model.bin", a->dir);
        st = read_bin(a, path, err);
    }
    for (int i = 0; i < a->n && st == TY_OK; i++)
        if (!a->pair[i].a || !a->pair[i].b)
            st = ty_fail(err, TY_EFORMAT, "%s: %s has no lora_%c", a->dir, a->pair[i].module,
                         a->pair[i].a ? 'B' : 'A');
        else if (a->pair[i].rank != a->rank)
            st = ty_fail(err, TY_ESHAPE, "%s: %s has rank %lld, adapter_config.json says %d",
                         a->dir, a->pair[i].module, (long long)a->pair[i].rank, a->rank);
    return st;
}

static int by_module(const void *a, const void *b) {
    return strcmp(((const ty_adapter_pair *)a)->module, ((const ty_adapter_pair *)b)->module);
}

ty_status ty_adapter_open(ty_adapter **out, const char *dir, ty_err *err) {
    *out = NULL;
    ty_adapter *a = calloc(1, sizeof *a);
    if (!a) return ty_fail(err, TY_ENOMEM, "no memory for an adapter");
    ty_status st = TY_OK;
    if (snprintf(a->dir, sizeof a->dir, "%s", dir) >= (int)sizeof a->dir)
        st = ty_fail(err, TY_EINVAL, "%.200s: path is too long", dir);
    if (st == TY_OK) st = read_config(a, err);
    if (st == TY_OK) st = read_tensors(a, err);
    if (st == TY_OK) qsort(a->pair, (size_t)a->n, sizeof *a->pair, by_module);
    if (st != TY_OK) ty_adapter_close(&a);
    *out = a;
    return st;
}

const ty_adapter_pair *ty_adapter_find(const ty_adapter *a, const char *module, size_t len) {
    for (int i = 0; i < a->n; i++)
        if (strlen(a->pair[i].module) == len && memcmp(a->pair[i].module, module, len) == 0)
            return &a->pair[i];
    return NULL;
}

ty_status ty_adapter_merge(const ty_adapter *a, const ty_adapter_pair *p, float *w, int64_t out,
                           int64_t in, ty_err *err) {
    if (p->out != out || p->in != in)
        return ty_fail(err, TY_ESHAPE, "%s: %s is for [%lld,%lld], the model has [%lld,%lld]",
                       a->dir, p->module, (long long)p->out, (long long)p->in, (long long)out,
                       (long long)in);
    float scale = (float)(a->alpha / a->rank);
    float *scaled = malloc((size_t)(out * p->rank) * sizeof *scaled);
    if (!scaled) return ty_fail(err, TY_ENOMEM, "no memory to merge %s", p->module);
    for (int64_t i = 0; i < out * p->rank; i++) scaled[i] = p->b[i] * scale;
    ty_matmul m = {.M = out,
                   .N = in,
                   .K = p->rank,
                   .a = scaled,
                   .lda = p->rank,
                   .b = p->a,
                   .b_type = TY_F32,
                   .ldb = in,
                   .c = w,
                   .ldc = in,
                   .add = true};
    ty_status st = ty_matmul_run(&m, NULL, err);
    free(scaled);
    return st;
}

void ty_adapter_identity(const ty_adapter *a, char out[TY_MODEL_ID_SIZE]) {
    double scale = a->alpha / a->rank;
    XXH128_hash_t h = XXH3_128bits(&scale, sizeof scale);
    for (int i = 0; i < a->n; i++) {
        const ty_adapter_pair *p = &a->pair[i];
        XXH128_hash_t part[4] = {h, XXH3_128bits(p->module, strlen(p->module)),
                                 XXH3_128bits(p->a, (size_t)(p->rank * p->in) * sizeof *p->a),
                                 XXH3_128bits(p->b, (size_t)(p->out * p->rank) * sizeof *p->b)};
        h = XXH3_128bits(part, sizeof part);
    }
    snprintf(out, TY_MODEL_ID_SIZE, "%016llx%016llx", (unsigned long long)h.high64,
             (unsigned long long)h.low64);
}

/* ---- as an option ---- */

ty_status ty_adapter_option_parse(ty_adapter_option *o, const char *text, ty_err *err) {
    static const char LETTERS[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    const char *equals = strchr(text, '='), *name = text;
    *o = (ty_adapter_option){.dir = equals ? equals + 1 : ""};
    for (const char *p = text; p < equals; p++)
        if (*p == '+') name = p + 1;
    size_t n = equals ? (size_t)(equals - name) : 0;
    size_t n_model = name > text ? (size_t)(name - text) - 1 : 0;
    if (n == 0 || n >= sizeof o->name || strspn(name, LETTERS) < n || !*o->dir ||
        (name > text && n_model == 0) || n_model >= sizeof o->model)
        return ty_fail(err, TY_EINVAL,
                       "--adapter %.200s: want NAME=DIR or MODEL+NAME=DIR, NAME of at most %d "
                       "letters, digits, '.', '-' and '_'",
                       text, TY_ADAPTER_NAME - 1);
    memcpy(o->name, name, n);
    memcpy(o->model, text, n_model);
    return TY_OK;
}

bool ty_adapter_option_is_for(const ty_adapter_option *o, const char *model, int n_models) {
    return *o->model ? strcmp(o->model, model) == 0 : n_models == 1;
}

void ty_adapter_close(ty_adapter **out) {
    ty_adapter *a = *out;
    if (!a) return;
    for (int i = 0; i < a->n; i++) {
        free(a->pair[i].module);
        free(a->pair[i].a);
        free(a->pair[i].b);
    }
    free(a->pair);
    free(a);
    *out = NULL;
}
