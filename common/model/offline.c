/* offline.c - see offline.h. */
#include "common/model/offline.h"

#include <stdlib.h>
#include <string.h>

static ty_status find(ty_offline_input *in, const char *path, const char *name, const char *remedy,
                      ty_tensor *t, ty_err *err) {
    ty_status st = ty_safetensors_find(in->file, name, t, err);
    if (st == TY_OK) return st;
    if (ty_safetensors_count(in->file) != 1)
        return ty_fail(err, TY_ENOTFOUND,
                       "%s: no tensor \"%s\" among its %d; make the file with %s", path, name,
                       ty_safetensors_count(in->file), remedy);
    ty_safetensors_tensor(in->file, 0, t);
    return TY_OK;
}

static ty_status set_shape(ty_offline_input *in, const char *path, const char *name, int n_dim,
                           const ty_tensor *t, ty_err *err) {
    char text[128];
    int missing = n_dim - t->n_dim;
    if (missing != 0 && missing != 1)
        return ty_fail(err, TY_ESHAPE, "%s: %s is %s, want %d or %d dimensions", path, name,
                       ty_tensor_shape_text(t, text, sizeof text), n_dim - 1, n_dim);
    if (ty_tensor_count(t) < 1)
        return ty_fail(err, TY_ESHAPE, "%s: %s is %s, it is empty", path, name,
                       ty_tensor_shape_text(t, text, sizeof text));
    in->n_dim = n_dim;
    in->shape[0] = 1;
    for (int i = 0; i < t->n_dim; i++) in->shape[i + missing] = t->shape[i];
    return TY_OK;
}

static ty_status set_data(ty_offline_input *in, const char *path, const char *name,
                          const ty_tensor *t, ty_err *err) {
    if (t->dtype == TY_F32) {
        in->data = t->data;
        return TY_OK;
    }
    if (t->dtype != TY_F16 && t->dtype != TY_BF16 && t->dtype != TY_F64)
        return ty_fail(err, TY_ESHAPE, "%s: %s is of type %s, want f32, f16, bf16 or f64", path,
                       name, ty_dtype_name((int)t->dtype));
    size_t n = (size_t)ty_tensor_count(t);
    in->converted = malloc(n * sizeof *in->converted);
    if (!in->converted) return ty_fail(err, TY_ENOMEM, "%s: no memory for %s", path, name);
    ty_dtype_to_f32(t->dtype, t->data, 0, n, in->converted);
    in->data = in->converted;
    return TY_OK;
}

ty_status ty_offline_open(ty_offline_input *in, const char *path, const char *name, int n_dim,
                          bool videos, const char *remedy, ty_err *err) {
    ty_tensor t;
    memset(in, 0, sizeof *in);
    ty_status st = ty_safetensors_open(&in->file, path, err);
    if (st == TY_OK) st = find(in, path, name, remedy, &t, err);
    if (st == TY_OK && videos && t.n_dim == n_dim + 1) n_dim++;
    if (st == TY_OK) st = set_shape(in, path, name, n_dim, &t, err);
    if (st == TY_OK) st = set_data(in, path, name, &t, err);
    if (st != TY_OK) ty_offline_close(in);
    return st;
}

void ty_offline_close(ty_offline_input *in) {
    free(in->converted);
    ty_safetensors_close(&in->file);
    memset(in, 0, sizeof *in);
}

static void put(void *ctx, const char *name, int n_dim, const int64_t *shape, const float *data) {
    ty_offline_dump *d = ctx;
    if (d->st == TY_OK)
        d->st = ty_safetensors_add(d->writer, name, TY_F32, n_dim, shape, data, &d->err);
}

ty_dump ty_offline_dump_into(ty_offline_dump *d, ty_safetensors_writer *writer) {
    *d = (ty_offline_dump){.writer = writer};
    return (ty_dump){put, d};
}

ty_status ty_offline_dump_status(const ty_offline_dump *d, ty_err *err) {
    return d->st == TY_OK ? TY_OK : ty_fail(err, d->st, "%s", d->err.text);
}
