/* weights.c - see weights.h. */
#include "common/model/weights.h"

#include "common/base/file.h"

#include <stdio.h>
#include <stdlib.h>

enum { NAME_SIZE = 256 };

ty_status ty_weights_floats(const ty_weights *w, const char *name, int n_dim, const int64_t *shape,
                            float **out, ty_err *err) {
    ty_tensor t;
    *out = NULL;
    ty_status st = ty_gguf_find_shape(w->file, name, n_dim, shape, &t, err);
    if (st != TY_OK) return st;
    size_t n = (size_t)ty_tensor_count(&t);
    float *x = malloc(n * sizeof *x);
    if (!x) return ty_fail(err, TY_ENOMEM, "%s: no memory for %s", ty_gguf_path(w->file), name);
    ty_dtype_to_f32(t.dtype, t.data, 0, n, x);
    *out = x;
    return TY_OK;
}

static ty_status suffixed(char *out, const char *name, const char *suffix, ty_err *err) {
    if (snprintf(out, NAME_SIZE, "%s.%s", name, suffix) < NAME_SIZE) return TY_OK;
    return ty_fail(err, TY_EINTERNAL, "the tensor name %s is too long", name);
}

static ty_status vector(const ty_weights *w, const char *name, const char *suffix, int64_t n,
                        float **out, ty_err *err) {
    char full[NAME_SIZE];
    ty_status st = suffixed(full, name, suffix, err);
    return st == TY_OK ? ty_weights_floats(w, full, 1, &n, out, err) : st;
}

ty_status ty_weights_norm(const ty_weights *w, const char *name, int64_t n, float **weight,
                          float **bias, ty_err *err) {
    ty_status st = vector(w, name, "weight", n, weight, err);
    return st == TY_OK ? vector(w, name, "bias", n, bias, err) : st;
}

ty_status ty_weights_linear(const ty_weights *w, int n, const char *const *name, const int64_t *out,
                            int64_t in, ty_linear **layer, ty_err *err) {
    ty_tensor weight[TY_WEIGHTS_FUSE_MAX] = {{0}};
    float *bias[TY_WEIGHTS_FUSE_MAX] = {NULL};
    ty_status st = n <= TY_WEIGHTS_FUSE_MAX
                       ? TY_OK
                       : ty_fail(err, TY_EINTERNAL, "%d layers to fuse are too many", n);
    for (int i = 0; i < n && st == TY_OK; i++) {
        char full[NAME_SIZE];
        st = suffixed(full, name[i], "weight", err);
        if (st == TY_OK)
            st = ty_gguf_find_shape(w->file, full, 2, (const int64_t[]){out[i], in}, &weight[i],
                                    err);
        if (st == TY_OK) st = vector(w, name[i], "bias", out[i], &bias[i], err);
    }
    if (st == TY_OK)
        st = ty_linear_create(layer, weight, (const float *const *)bias, n, w->compute, w->pool,
                              err);
    /* The layer has a copy.  So a load needs the memory of the copies and of one layer more. */
    for (int i = 0; i < n && st == TY_OK; i++)
        ty_file_release(weight[i].data, weight[i].size_bytes);
    for (int i = 0; i < TY_WEIGHTS_FUSE_MAX; i++) free(bias[i]);
    return st;
}
