/*
 * weights.h - from a stage's GGUF file to what its layers hold: float vectors and linear layers, every
 * shape checked.  Errors name the file, the tensor, and both shapes.
 */
#ifndef TY_MODEL_WEIGHTS_H
#define TY_MODEL_WEIGHTS_H

#include "common/math/linear.h"
#include "common/model/gguf.h"

/* Where a stage's weights come from and how they will compute. */
typedef struct {
    const ty_gguf *file;
    ty_compute compute;
    ty_pool *pool;
} ty_weights;

enum { TY_WEIGHTS_FUSE_MAX = 4 };

/* A tensor of exactly this shape as floats, any stored type; free() it. */
ty_status ty_weights_floats(const ty_weights *w, const char *name, int n_dim, const int64_t *shape,
                            float **out, ty_err *err);
/* `<name>.weight` [n] and `<name>.bias` [n]: a LayerNorm. */
ty_status ty_weights_norm(const ty_weights *w, const char *name, int64_t n, float **weight,
                          float **bias, ty_err *err);
/* One layer out of n tensors `<name[i]>.weight` [out[i], in] with biases `<name[i]>.bias`. */
ty_status ty_weights_linear(const ty_weights *w, int n, const char *const *name, const int64_t *out,
                            int64_t in, ty_linear **layer, ty_err *err);

#endif
