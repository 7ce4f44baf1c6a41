/*
 * export.h - what a run leaves behind, in Hugging Face's layout.
 */
#ifndef TRAIN_EXPORT_H
#define TRAIN_EXPORT_H

#include "training/owl.h"

/* A whole model in dir (made if need be): model.safetensors with every tensor of the checkpoint in `from`,
 * as stored there but for what trained (f32), adapters merged (W + alpha / r B A, f32), and the small files
 * beside it.  A model that was new has all its parameters written, as they are; layers that were (new_layers) too, and
 * config.json then counts them. */
ty_status export_model(const owl *m, const char *from, bool is_new, int new_layers, const char *dir,
                       ty_err *err);
/* What trained besides adapters, f32, under its names in the checkpoint.  Nothing is written when that is
 * nothing. */
ty_status export_trained(const owl *m, const char *path, ty_err *err);

#endif
