/*
 * offline.h - what the stages' offline commands share: a named tensor out of a safetensors file, and an
 * output file that collects results and --dump's intermediates.
 */
#ifndef TY_MODEL_OFFLINE_H
#define TY_MODEL_OFFLINE_H

#include "common/model/dump.h"
#include "common/model/safetensors.h"

typedef struct {
    ty_safetensors *file;
    float *converted;  /* when the file holds f16, bf16 or f64 */
    const float *data; /* valid until ty_offline_close */
    int n_dim;         /* after a leading 1 was put in front where it was missing */
    int64_t shape[TY_MAX_DIMS];
} ty_offline_input;

/* The tensor `name` as floats with n_dim dimensions; one dimension less counts as a batch of one.  videos:
 * one more passes as well, then in->n_dim tells.
 * When the file has no tensor of that name but holds exactly one, that one is taken, so that files
 * made elsewhere need no renaming.  remedy: what makes such a file ("tyto-preprocess").
 * Fails: TY_ENOTFOUND, TY_EFORMAT, TY_ESHAPE; the text names the file. */
ty_status ty_offline_open(ty_offline_input *in, const char *path, const char *name, int n_dim,
                          bool videos, const char *remedy, ty_err *err);
void ty_offline_close(ty_offline_input *in);

/* A ty_dump that adds to a safetensors writer and keeps the first failure. */
typedef struct {
    ty_safetensors_writer *writer; /* borrowed */
    ty_status st;
    ty_err err;
} ty_offline_dump;
ty_dump ty_offline_dump_into(ty_offline_dump *d, ty_safetensors_writer *writer);
/* Copies the first failure, if there was one. */
ty_status ty_offline_dump_status(const ty_offline_dump *d, ty_err *err);

#endif
