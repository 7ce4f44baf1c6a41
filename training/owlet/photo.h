/*
 * photo.h - a scene or a paper as a photograph: backdrop, objects, sign, light, blur, noise, JPEG.
 */
#ifndef OWLET_PHOTO_H
#define OWLET_PHOTO_H

#include "common/base/err.h"
#include "training/owlet/cells.h"
#include "training/owlet/paper.h"
#include "training/owlet/scene.h"

#include <stddef.h>

/* Draws s and encodes it as JPEG; *jpeg is the caller's, free().  side: of the square picture.  Adds to marks (may be
 * NULL) what is where. */
ty_status photo_scene(const scene *s, int side, landmarks *marks, unsigned char **jpeg,
                      size_t *size, ty_err *err);
/* Likewise a sheet of paper on a table. */
ty_status photo_paper(const paper *p, int side, landmarks *marks, unsigned char **jpeg,
                      size_t *size, ty_err *err);

#endif
