/*
 * pictures.h - a training picture from its file to normalised pixels, through the serving stage's code.
 *
 * v1 in training: RGB, a random part of 50 to 100 % of the area (torchvision's RandomResizedCrop: ratio
 * 3/4 to 4/3), to S x S, mirrored half of the time; else the whole picture to S x S.  v2: padded to a
 * square of the mean colour.
 */
#ifndef TRAIN_PICTURES_H
#define TRAIN_PICTURES_H

#include "services/preprocess/preprocess.h"

#include <stdbool.h>

typedef struct {
    preprocess *stage;
    int size;
    preprocess_mode mode;
    bool augment; /* v1's crop and mirror */
} pictures;

/* preprocessor_config.json of dir for mean and std (CLIP's when there is none); size is the ViT's. */
ty_status pictures_open(pictures *p, const char *dir, int size, int version, bool augment,
                        ty_err *err);
void pictures_close(pictures *p);
/* pixels [3, S, S].  draw: which random numbers of `seed` the augmentation takes.  Several threads at
 * once.  Fails: TY_ENOTFOUND, TY_EIMAGE and what the stage says. */
ty_status pictures_load(const pictures *p, const char *path, uint64_t seed, uint64_t draw,
                        float *pixels, ty_err *err);

#endif
