/*
 * checkpoint.h - one view over a checkpoint directory as Hugging Face lays it out: safetensors or
 * PyTorch .bin, in one file or in shards with an index.
 *
 * Looked for in this order: model.safetensors.index.json, model.safetensors,
 * pytorch_model.bin.index.json, pytorch_model.bin.  Files are mapped, a tensor is in memory only
 * between load and release.
 */
#ifndef TY_MODEL_CHECKPOINT_H
#define TY_MODEL_CHECKPOINT_H

#include "common/math/dtype.h"

typedef struct ty_checkpoint ty_checkpoint;

/* Fails: TY_ENOTFOUND (no such files: says what was looked for; a shard that the index names is
 * missing), TY_EFORMAT, TY_EUNSUPPORTED. */
ty_status ty_checkpoint_open(ty_checkpoint **out, const char *dir, ty_err *err);
void ty_checkpoint_close(ty_checkpoint **c);

/* All tensors of all shards, sorted by name. */
int ty_checkpoint_count(const ty_checkpoint *c);
const char *ty_checkpoint_name(const ty_checkpoint *c, int i);
bool ty_checkpoint_has(const ty_checkpoint *c, const char *name);

/* Type, shape and size; data is NULL.  TY_ENOTFOUND names the tensor and the directory. */
ty_status ty_checkpoint_info(const ty_checkpoint *c, const char *name, ty_tensor *t, ty_err *err);

typedef struct {
    ty_tensor t;
    void *owned; /* a copy, where the file does not hold the tensor row-major and aligned */
} ty_loaded;

/* The tensor's data, aligned for its type.  Release it before the next. */
ty_status ty_checkpoint_load(const ty_checkpoint *c, const char *name, ty_loaded *out, ty_err *err);
/* Frees the copy, or tells the kernel that the file's pages may go.  Safe on a zeroed one. */
void ty_checkpoint_release(ty_loaded *l);

#endif
