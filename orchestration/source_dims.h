/*
 * source_dims.h - the dimensions of a checkpoint's stages: widths, FFN sizes, vocabulary and queries out of
 * its tensors; layers, heads, epsilons and the image size out of config.json.  Behind source.h.
 */
#ifndef TY_SOURCE_DIMS_H
#define TY_SOURCE_DIMS_H

#include "orchestration/source.h"

/* Each fills its part of a source whose family is known; the abstractor's after the ViT's.  Fails: TY_ENOTFOUND
 * (tensor), TY_ESHAPE, TY_EFORMAT (a number of the configuration), TY_EUNSUPPORTED. */
ty_status source_read_vit(source *s, ty_err *err);
ty_status source_read_abstractor(source *s, ty_err *err);
ty_status source_read_decoder(source *s, ty_err *err);

#endif
