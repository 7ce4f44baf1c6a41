/*
 * gguf.h - GGUF files (version 3, little-endian; version 2 is read too): metadata and tensors.
 *
 * Reader: the file is mapped; everything returned is borrowed until ty_gguf_close.  Every length,
 * count, offset and type is checked against the file's size on open, so that a cut or hostile file
 * is a TY_EFORMAT, never a crash.  Format: the GGUF specification in the ggml repository (docs/gguf.md).
 * Shapes are returned outermost first (the file holds the reverse).
 */
#ifndef TY_MODEL_GGUF_H
#define TY_MODEL_GGUF_H

#include "common/math/dtype.h"

typedef struct ty_gguf ty_gguf;

ty_status ty_gguf_open(ty_gguf **out, const char *path, ty_err *err);
void ty_gguf_close(ty_gguf **g);
const char *ty_gguf_path(const ty_gguf *g);

int ty_gguf_tensor_count(const ty_gguf *g);
const char *ty_gguf_tensor_name(const ty_gguf *g, int i);
/* By index or name.  ty_gguf_find: TY_ENOTFOUND names the file and the tensor. */
void ty_gguf_tensor(const ty_gguf *g, int i, ty_tensor *t);
ty_status ty_gguf_find(const ty_gguf *g, const char *name, ty_tensor *t, ty_err *err);
/* The same, and its shape must be this one (n_dim numbers; -1 = any): TY_ESHAPE names both shapes. */
ty_status ty_gguf_find_shape(const ty_gguf *g, const char *name, int n_dim, const int64_t *shape,
                             ty_tensor *t, ty_err *err);

/* Metadata.  _get_: TY_ENOTFOUND when absent, TY_EFORMAT when of another kind (any integer type
 * that holds the value is accepted for ints, f32/f64 for floats). */
bool ty_gguf_has(const ty_gguf *g, const char *key);
ty_status ty_gguf_get_int(const ty_gguf *g, const char *key, int64_t *v, ty_err *err);
ty_status ty_gguf_get_float(const ty_gguf *g, const char *key, double *v, ty_err *err);
ty_status ty_gguf_get_bool(const ty_gguf *g, const char *key, bool *v, ty_err *err);
/* Strings are not NUL-terminated in the file: pointer and length; they may hold any byte. */
ty_status ty_gguf_get_str(const ty_gguf *g, const char *key, const char **v, size_t *len,
                          ty_err *err);
/* Arrays: the element count, then elements one by one. */
ty_status ty_gguf_array_len(const ty_gguf *g, const char *key, int64_t *n, ty_err *err);
ty_status ty_gguf_array_int(const ty_gguf *g, const char *key, int64_t i, int64_t *v, ty_err *err);
ty_status ty_gguf_array_float(const ty_gguf *g, const char *key, int64_t i, double *v, ty_err *err);
ty_status ty_gguf_array_str(const ty_gguf *g, const char *key, int64_t i, const char **v,
                            size_t *len, ty_err *err);
/* For inspection: number of pairs, key i, its value as text (arrays cut short). */
int ty_gguf_kv_count(const ty_gguf *g);
const char *ty_gguf_kv_key(const ty_gguf *g, int i);

/*
 * Model identity: 32 hex digits that name the stage model in contracts, cache keys and receipts.
 * A file written by Tyto carries `tyto.content_hash` (XXH3-128 of all tensor bytes, in order); its
 * identity is XXH3-128 of the header (which holds that hash).  Another file's identity is XXH3-128
 * of the whole file.
 */
enum { TY_MODEL_ID_SIZE = 33 };
void ty_gguf_identity(const ty_gguf *g, char out[TY_MODEL_ID_SIZE]);

/*
 * Writer, one tensor in memory at a time:
 *   create -> set_* (all metadata) -> declare (all tensors, in order) -> write (each, same order)
 *   -> finish (checks that all are there, fsync, rename) ; destroy removes an unfinished file.
 * The file appears under its name only when finish succeeds.  The writer adds `tyto.content_hash`
 * and `general.alignment` (32).  create checks free disk space when finish_bytes of the declared
 * tensors are known (at the first write): TY_EIO names the bytes missing.
 */
typedef struct ty_gguf_writer ty_gguf_writer;
ty_status ty_gguf_writer_create(ty_gguf_writer **out, const char *path, const char *architecture,
                                ty_err *err);
ty_status ty_gguf_set_u32(ty_gguf_writer *w, const char *key, uint32_t v, ty_err *err);
ty_status ty_gguf_set_f32(ty_gguf_writer *w, const char *key, float v, ty_err *err);
ty_status ty_gguf_set_bool(ty_gguf_writer *w, const char *key, bool v, ty_err *err);
ty_status ty_gguf_set_str(ty_gguf_writer *w, const char *key, const char *v, size_t len,
                          ty_err *err);
ty_status ty_gguf_set_f32s(ty_gguf_writer *w, const char *key, const float *v, int64_t n,
                           ty_err *err);
ty_status ty_gguf_set_i32s(ty_gguf_writer *w, const char *key, const int32_t *v, int64_t n,
                           ty_err *err);
ty_status ty_gguf_set_strs(ty_gguf_writer *w, const char *key, const char *const *v,
                           const size_t *len, int64_t n, ty_err *err);
ty_status ty_gguf_declare(ty_gguf_writer *w, const char *name, ty_dtype t, int n_dim,
                          const int64_t *shape, ty_err *err);
ty_status ty_gguf_write(ty_gguf_writer *w, const void *data, size_t size_bytes, ty_err *err);
ty_status ty_gguf_finish(ty_gguf_writer *w, ty_err *err);
void ty_gguf_writer_destroy(ty_gguf_writer **w);

#endif
