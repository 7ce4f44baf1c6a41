/*
 * safetensors.h - safetensors files: an 8-byte little-endian header length, a JSON header, raw
 * tensor bytes.  Format: the safetensors README (Hugging Face).
 *
 * The reader maps the file; tensors are borrowed until close.  Header length, JSON, dtypes, shapes,
 * offsets (in range, no overlap, no hole) are checked on open.  A tensor that the file does not align
 * for its type (old writers) is copied to where it is, so that `data` may be read as that type.
 */
#ifndef TY_MODEL_SAFETENSORS_H
#define TY_MODEL_SAFETENSORS_H

#include "common/math/dtype.h"

typedef struct ty_safetensors ty_safetensors;

ty_status ty_safetensors_open(ty_safetensors **out, const char *path, ty_err *err);
/* The same without copying the tensors that the file does not align: for readers that copy anyway. */
ty_status ty_safetensors_map(ty_safetensors **out, const char *path, ty_err *err);
void ty_safetensors_close(ty_safetensors **s);
int ty_safetensors_count(const ty_safetensors *s);
const char *ty_safetensors_name(const ty_safetensors *s, int i);
void ty_safetensors_tensor(const ty_safetensors *s, int i, ty_tensor *t);
/* TY_ENOTFOUND names the file, the tensor, and what is there. */
ty_status ty_safetensors_find(const ty_safetensors *s, const char *name, ty_tensor *t, ty_err *err);

/* Writer: collects tensors (bytes copied), then writes the file atomically. */
typedef struct ty_safetensors_writer ty_safetensors_writer;
ty_status ty_safetensors_writer_create(ty_safetensors_writer **out, ty_err *err);
ty_status ty_safetensors_add(ty_safetensors_writer *w, const char *name, ty_dtype t, int n_dim,
                             const int64_t *shape, const void *data, ty_err *err);
ty_status ty_safetensors_write(ty_safetensors_writer *w, const char *path, ty_err *err);
void ty_safetensors_writer_destroy(ty_safetensors_writer **w);

#endif
