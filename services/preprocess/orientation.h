/*
 * orientation.h - how a picture must be turned to stand upright, as EXIF says it: phones store what the sensor saw and
 * how the phone was held.  The reference does not look at it, so neither do we unless asked.
 *
 * Orientations are EXIF's: 1 upright, 2 mirrored, 3 upside down, 4 = 3 mirrored, 5 to 8 lying on a side (width and height
 * change places).
 */
#ifndef TY_ORIENTATION_H
#define TY_ORIENTATION_H

#include "services/preprocess/image_decode.h"

/* From a JPEG's APP1, a PNG's eXIf, a WebP's EXIF; 1 when there is none, or none that can be read. */
int orientation_of(const uint8_t *bytes, size_t n);
/* Turns the pixels; Pillow's ImageOps.exif_transpose.  Fails: TY_ENOMEM, TY_ELIMIT. */
ty_status orientation_apply(image *im, int orientation, const image_limits *limits, ty_err *err);

#endif
