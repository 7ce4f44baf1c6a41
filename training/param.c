#include "training/param.h"
#include "common/base/big.h"
#include "training/random.h"

#include <stdlib.h>
#include <string.h>

static ty_status no_memory(const char *name, ty_err *err) {
    return ty_fail(err, TY_ENOMEM, "no memory for parameter %s", name);
}

static void *bytes_of(size_t n) {
    return ty_big_alloc(n + 64);
}

static ty_status add(param_set *s, const char *name, int n_dim, const int64_t *shape, param **out,
                     ty_err *err) {
    if (s->n == s->cap) {
        int cap = s->cap ? 2 * s->cap : 128;
        param **item = realloc(s->item, (size_t)cap * sizeof(param *));
        if (!item) return no_memory(name, err);
        s->item = item;
        s->cap = cap;
    }
    param *p = calloc(1, sizeof *p);
    if (!p) return no_memory(name, err);
    s->item[s->n++] = p;
    size_t len = strlen(name);
    if (len >= sizeof p->name)
        return ty_fail(err, TY_ELIMIT, "parameter name %.200s is too long", name);
    memcpy(p->name, name, len + 1);
    p->n_dim = n_dim;
    p->count = 1;
    for (int i = 0; i < n_dim; i++) p->count *= p->shape[i] = shape[i];
    p->type = TY_F32;
    *out = p;
    return TY_OK;
}

static ty_status check_shape(const char *name, const ty_tensor *t, int n_dim, const int64_t *shape,
                             ty_err *err) {
    bool same = t->n_dim == n_dim;
    for (int i = 0; i < n_dim && same; i++) same = t->shape[i] == shape[i];
    if (same) return TY_OK;
    ty_tensor want = {.n_dim = n_dim};
    memcpy(want.shape, shape, (size_t)n_dim * sizeof *shape);
    char got[96], wanted[96];
    return ty_fail(err, TY_ESHAPE, "%s is %s, want %s", name,
                   ty_tensor_shape_text(t, got, sizeof got),
                   ty_tensor_shape_text(&want, wanted, sizeof wanted));
}

static bool narrow(int type) {
    return type == TY_BF16 || type == TY_F16 || type == TY_Q8_0 || type == TY_Q4_0;
}

/* The type that a parameter is kept in: floats, but for frozen matrices. */
static ty_dtype kept_type(const param *p, const param_source *src, ty_dtype stored) {
    int type = src->frozen_type < 0 ? (int)stored : src->frozen_type;
    bool blocks = type == TY_Q8_0 || type == TY_Q4_0;
    if (p->train || p->n_dim != 2 || !narrow(type)) return TY_F32;
    if (blocks && p->shape[1] % TY_QBLOCK) return TY_F32;
    return (ty_dtype)type;
}

/* Row by row, so that a matrix is in memory once as floats at most for its widest row. */
static ty_status convert(param *p, const ty_tensor *t, ty_err *err) {
    size_t cols = (size_t)p->shape[p->n_dim - 1], rows = (size_t)p->count / cols;
    size_t row = ty_dtype_bytes(p->type, cols);
    p->data = bytes_of(rows * row);
    if (!p->data) return no_memory(p->name, err);
    if (p->type == t->dtype) {
        memcpy(p->data, t->data, rows * row);
        return TY_OK;
    }
    float *wide = malloc(cols * sizeof *wide);
    if (!wide) return no_memory(p->name, err);
    for (size_t r = 0; r < rows; r++) {
        ty_dtype_to_f32(t->dtype, t->data, r * cols, cols, wide);
        ty_dtype_from_f32(p->type, wide, cols, (uint8_t *)p->data + r * row);
    }
    free(wide);
    return TY_OK;
}

static bool ends_with(const char *s, const char *end) {
    size_t n = strlen(s), m = strlen(end);
    return n >= m && strcmp(s + n - m, end) == 0;
}

/* Frozen weights that are new are for measuring alone: a pattern of this many numbers, again and again. */
enum { PATTERN = 1 << 18 };

static void fill_pattern(float *x, int64_t n, const param_source *src, uint64_t stream) {
    int64_t first = n < PATTERN ? n : PATTERN;
    random_normal(src->seed, stream, src->spread, first, x);
    for (int64_t i = first; i < n; i++) x[i] = x[i - first];
}

static ty_status fill_new(param *p, const param_source *src, uint64_t stream, ty_err *err) {
    p->type = kept_type(p, src, TY_F32);
    if (p->type != TY_F32) {
        /* Row by row out of one pattern that is a little longer than a row. */
        size_t cols = (size_t)p->shape[1], rows = (size_t)p->shape[0],
               row = ty_dtype_bytes(p->type, cols);
        float *x = bytes_of((PATTERN + cols) * sizeof(float));
        p->data = bytes_of(rows * row);
        if (!x || !p->data) {
            free(x);
            return no_memory(p->name, err);
        }
        fill_pattern(x, (int64_t)(PATTERN + cols), src, stream);
        for (size_t r = 0; r < rows; r++)
            ty_dtype_from_f32(p->type, x + r * 32 * 97 % PATTERN, cols,
                              (uint8_t *)p->data + r * row);
        free(x);
        return TY_OK;
    }
    float *x = p->data = p->value = bytes_of((size_t)p->count * sizeof(float));
    if (!x) return no_memory(p->name, err);
    if (p->n_dim > 1 && p->train)
        random_normal(src->seed, stream, src->spread, p->count, x);
    else if (p->n_dim > 1)
        fill_pattern(x, p->count, src, stream);
    else
        for (int64_t i = 0; i < p->count; i++) x[i] = ends_with(p->name, ".bias") ? 0 : 1;
    return TY_OK;
}

ty_status param_read(param_set *s, const param_source *src, const char *name, int n_dim,
                     const int64_t *shape, bool norm, param **out, ty_err *err) {
    ty_loaded l = {0};
    param *p = NULL;
    ty_status st = src->checkpoint ? ty_checkpoint_load(src->checkpoint, name, &l, err) : TY_OK;
    if (st == TY_OK && src->checkpoint) st = check_shape(name, &l.t, n_dim, shape, err);
    if (st == TY_OK) st = add(s, name, n_dim, shape, &p, err);
    if (st == TY_OK) {
        p->train = src->trains && src->trains(src->ctx, name);
        p->decay = !norm && !ends_with(name, ".bias");
    }
    if (st == TY_OK && !src->checkpoint) {
        st = fill_new(p, src, (uint64_t)s->n, err);
    } else if (st == TY_OK) {
        p->type = kept_type(p, src, l.t.dtype);
        st = convert(p, &l.t, err);
        p->value = p->type == TY_F32 ? p->data : NULL;
    }
    ty_checkpoint_release(&l);
    *out = p;
    return st;
}

ty_status param_new(param_set *s, const char *name, int n_dim, const int64_t *shape, param **out,
                    ty_err *err) {
    param *p = NULL;
    ty_status st = add(s, name, n_dim, shape, &p, err);
    if (st != TY_OK) return st;
    p->train = p->decay = true;
    p->data = p->value = bytes_of((size_t)p->count * sizeof(float));
    if (!p->data) return no_memory(name, err);
    memset(p->data, 0, (size_t)p->count * sizeof(float));
    *out = p;
    return TY_OK;
}

/* Zeroed floats for the flat arrays. */
static ty_status new_array(float **out, int64_t n, ty_err *err) {
    *out = bytes_of((size_t)n * sizeof(float));
    if (!*out)
        return ty_fail(err, TY_ENOMEM, "no memory for %lld numbers of training state",
                       (long long)n);
    memset(*out, 0, (size_t)n * sizeof(float));
    return TY_OK;
}

static int64_t flat_size(const param *p) {
    return (p->count + 15) / 16 * 16;
}

int64_t param_share(const param_set *s, int n_rank) {
    return (s->n_value / 16 + n_rank - 1) / n_rank * 16;
}

ty_status param_settle(param_set *s, int rank, int n_rank, ty_err *err) {
    for (int i = 0; i < s->n; i++)
        if (s->item[i]->train) s->n_value += flat_size(s->item[i]);
    int64_t share = param_share(s, n_rank), at = 0;
    s->first = share * rank < s->n_value ? share * rank : s->n_value;
    s->last = s->first + share < s->n_value ? s->first + share : s->n_value;
    ty_status st = new_array(&s->values, s->n_value, err);
    if (st == TY_OK) st = new_array(&s->grads, s->n_value, err);
    if (st == TY_OK) st = new_array(&s->m, s->last - s->first, err);
    if (st == TY_OK) st = new_array(&s->v, s->last - s->first, err);
    for (int i = 0; i < s->n && st == TY_OK; i++) {
        param *p = s->item[i];
        if (!p->train) continue;
        memcpy(s->values + at, p->data, (size_t)p->count * sizeof(float));
        free(p->data);
        p->data = p->value = s->values + at;
        p->grad = s->grads + at;
        p->settled = true;
        at += flat_size(p);
    }
    return st;
}

param *param_find(const param_set *s, const char *name) {
    for (int i = 0; i < s->n; i++)
        if (strcmp(s->item[i]->name, name) == 0) return s->item[i];
    return NULL;
}

size_t param_bytes(const param_set *s) {
    size_t bytes = 2 * (size_t)(s->n_value + s->last - s->first) * sizeof(float);
    for (int i = 0; i < s->n; i++)
        if (!s->item[i]->train)
            bytes += ty_dtype_bytes(s->item[i]->type, (size_t)s->item[i]->count);
    return bytes;
}

void param_zero_grads(param_set *s) {
    memset(s->grads, 0, (size_t)s->n_value * sizeof(float));
    for (int i = 0; i < s->n; i++) s->item[i]->touched = false;
}

void param_floats(const param *p, int64_t first, int64_t n, float *out) {
    ty_dtype_to_f32(p->type, p->data, (size_t)first, (size_t)n, out);
}

void param_set_clear(param_set *s) {
    for (int i = 0; i < s->n; i++) {
        if (!s->item[i]->settled) free(s->item[i]->data);
        free(s->item[i]);
    }
    free(s->item);
    free(s->values);
    free(s->grads);
    free(s->m);
    free(s->v);
    memset(s, 0, sizeof *s);
}
