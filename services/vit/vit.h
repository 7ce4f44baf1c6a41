/*
 * vit.h - the ViT stage: pixels -> patch features (NOTES §2).  Knows no socket.
 */
#ifndef TY_VIT_H
#define TY_VIT_H

#include "common/model/dump.h"
#include "common/model/run_options.h"

typedef struct vit vit;

ty_status vit_create(vit **out, const char *model_path, const ty_run_options *opt, ty_err *err);
void vit_destroy(vit **v);
int vit_image_size(const vit *v); /* S: input [3, S, S] */
int vit_n_token(const vit *v);    /* patches + 1: 257 in mPLUG-Owl 7B */
int vit_width(const vit *v);      /* C: 1024 in mPLUG-Owl 7B */
const char *vit_model_id(const vit *v);
bool vit_sees_videos(const vit *v); /* the file has the video variant's modules (temporal.h) */
double vit_flops(const vit *v);     /* floating-point operations for one picture */
double vit_video_flops(const vit *v, int n_frame);

/* pixels [n, 3, S, S] -> features [n, n_token, C], all n in one GEMM per layer.  Fails: TY_ENOMEM. */
ty_status vit_run(vit *v, const float *pixels, int n, float *features, const ty_dump *dump,
                  ty_err *err);

/* Videos of n_frame frames each: pixels [n, n_frame, 3, S, S] -> features [n, n_frame, n_token, C].  One frame
 * is a picture.  Fails: TY_ENOMEM, TY_EUNSUPPORTED (more frames, and the model sees pictures alone). */
ty_status vit_run_videos(vit *v, const float *pixels, int n, int n_frame, float *features,
                         const ty_dump *dump, ty_err *err);

#endif
