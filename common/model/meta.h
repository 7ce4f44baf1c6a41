/*
 * meta.h - what every stage asks of its GGUF file's metadata: is it this stage's file, and are the
 * sizes in it sane.  Errors name the file, the key and what was expected.
 */
#ifndef TY_MODEL_META_H
#define TY_MODEL_META_H

#include "common/model/gguf.h"

/* general.architecture must be `want`; stage ("vit") is for the message: TY_EFORMAT. */
ty_status ty_meta_architecture(const ty_gguf *g, const char *want, const char *stage, ty_err *err);
/* An integer in [1, max]: TY_EFORMAT otherwise. */
ty_status ty_meta_size(const ty_gguf *g, const char *key, int max, int *out, ty_err *err);
/* A finite float > 0. */
ty_status ty_meta_positive(const ty_gguf *g, const char *key, float *out, ty_err *err);

#endif
