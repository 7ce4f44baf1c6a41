/*
 * dump.h - how a stage hands out its intermediate tensors (--dump), under the goldens' names:
 * `vit_embed`, `vit_layerK`, `abs_layerK`, `inputs_embeds`, `hiddenK`.  A NULL dump costs nothing.
 */
#ifndef TY_MODEL_DUMP_H
#define TY_MODEL_DUMP_H

#include "common/math/dtype.h"

typedef struct {
    void (*put)(void *ctx, const char *name, int n_dim, const int64_t *shape, const float *data);
    void *ctx;
} ty_dump;

static inline void ty_dump_put(const ty_dump *d, const char *name, int n_dim, const int64_t *shape,
                               const float *data) {
    if (d) d->put(d->ctx, name, n_dim, shape, data);
}

#endif
