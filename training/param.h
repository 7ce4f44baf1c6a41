/*
 * param.h - a model's parameters by their names in the checkpoint: what trains, what is frozen, and
 * where values, gradients and the optimizer's moments lie.
 *
 * Everything that trains lies side by side in four flat arrays (values, gradients, first and second
 * moments), in the order of the set, so that norms, checkpoints and reductions over ranks are runs of
 * memory.  What is frozen keeps the type that it was given: matrices may be bf16, Q8_0 or Q4_0.
 */
#ifndef TRAIN_PARAM_H
#define TRAIN_PARAM_H

#include "common/math/dtype.h"
#include "common/model/checkpoint.h"

enum { PARAM_NAME = 192 };

typedef struct {
    char name[PARAM_NAME];
    int n_dim;
    int64_t shape[4];
    int64_t count;
    ty_dtype type; /* F32 when it trains, and for everything that is no matrix */
    void *data;
    float *value; /* data when type is F32, else NULL */
    float *grad;  /* NULL: frozen */
    bool train;
    bool settled; /* data lies in the set's flat array */
    bool decay;   /* weight decay applies: false for biases and LayerNorms */
    bool
        touched; /* this step's backward reached it.  What it did not is left alone by the optimizer,
                     decay included, as a gradient of None is in PyTorch */
} param;

typedef struct {
    param **item;
    int n, cap;
    int64_t n_value; /* elements that train, each parameter rounded up to 16 */
    float *values, *grads;
    /* The optimizer's moments of elements [first, last) alone: of this rank's share (ranks.h). */
    int64_t first, last;
    float *m, *v;
} param_set;

/* What the parameters are read from, and how. */
typedef struct {
    const ty_checkpoint *checkpoint; /* NULL: new weights, normal; norms 1, biases 0 */
    uint64_t seed;                   /* of new weights */
    float spread;                    /* their deviation: the configuration's initializer_range */
    bool (*trains)(void *ctx, const char *name); /* NULL: nothing */
    void *ctx;
    int frozen_type; /* of frozen matrices: a ty_dtype, or -1 to keep them as stored */
} param_source;

/* Reads `name`, or makes it.  norm: a LayerNorm's weight, which
 * does not decay (biases, by name, do not either).  Fails: TY_ENOTFOUND, TY_ESHAPE, TY_ENOMEM. */
ty_status param_read(param_set *s, const param_source *src, const char *name, int n_dim,
                     const int64_t *shape, bool norm, param **out, ty_err *err);
/* A new parameter that trains, zero. */
ty_status param_new(param_set *s, const char *name, int n_dim, const int64_t *shape, param **out,
                    ty_err *err);
/* After the last one: moves all that trains into the flat arrays.  Moments are held of the rank's share of
 * the elements: all of them for rank 0 of 1. */
ty_status param_settle(param_set *s, int rank, int n_rank, ty_err *err);
/* The length of a rank's share: rank r has the elements from r times this on. */
int64_t param_share(const param_set *s, int n_rank);
param *param_find(const param_set *s, const char *name); /* NULL: none */
/* Bytes of frozen and training values together with gradients and moments. */
size_t param_bytes(const param_set *s);
void param_zero_grads(param_set *s);
/* Elements [first, first + n) as floats, whatever the type. */
void param_floats(const param *p, int64_t first, int64_t n, float *out);
void param_set_clear(param_set *s);

#endif
