/*
 * lora.h - low-rank adapters that train: y += alpha / r * (x A^T) B^T beside the language model's linear
 * layers.  Read and written in PEFT's layout.
 */
#ifndef TRAIN_LORA_H
#define TRAIN_LORA_H

#include "training/owl.h"

typedef struct {
    int rank;
    double alpha, dropout; /* dropout: only told to PEFT; passes have it in train_run */
    char target[512];      /* extended regular expression that a module's whole name must match */
} lora_spec;

/* Adapters on all linear layers of the language model that the target matches: A uniform within
 * 1 / sqrt(in) (what kaiming_uniform gives), B zero.  Before param_settle.
 * Fails: TY_EINVAL (bad expression; nothing matches), TY_ENOMEM. */
ty_status lora_add(owl *m, const lora_spec *spec, uint64_t seed, ty_err *err);
/* Of the adapter in dir (common/model/adapter.h, which says what fails). */
ty_status lora_read_spec(lora_spec *spec, const char *dir, ty_err *err);
/* Values of the adapters that lora_add made.  Fails: TY_ENOTFOUND, TY_ESHAPE. */
ty_status lora_load(owl *m, const char *dir, ty_err *err);
/* Writes dir (made if need be).  base: what adapter_config.json names as the base model. */
ty_status lora_save(const owl *m, const lora_spec *spec, const char *base, const char *dir,
                    ty_err *err);

#endif
