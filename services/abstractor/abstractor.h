/*
 * abstractor.h - the visual abstractor: patch features -> visual tokens (NOTES §3).  Knows no socket.
 */
#ifndef TY_ABSTRACTOR_H
#define TY_ABSTRACTOR_H

#include "common/model/dump.h"
#include "common/model/run_options.h"

typedef struct abstractor abstractor;

ty_status abstractor_create(abstractor **out, const char *model_path, const ty_run_options *opt,
                            ty_err *err);
void abstractor_destroy(abstractor **a);
int abstractor_width_in(const abstractor *a);  /* C of the image features */
int abstractor_n_token(const abstractor *a);   /* image tokens that it takes; -1: any number (v1) */
int abstractor_n_out(const abstractor *a);     /* queries + 1 */
int abstractor_width_out(const abstractor *a); /* D of the LLM */
bool abstractor_sees_videos(const abstractor *a); /* the file is the video variant's */
const char *abstractor_model_id(const abstractor *a);
double abstractor_flops(const abstractor *a, int n_token); /* for one picture */

/* features [n, n_token, C] -> tokens [n, queries + 1, D], all n in one GEMM per layer. */
ty_status abstractor_run(abstractor *a, const float *features, int n, int n_token, float *tokens,
                         const ty_dump *dump, ty_err *err);

/* Videos (NOTES §12): features [n, n_frame, n_token, C] -> tokens [n, queries + 1, D].  All frames' tokens
 * are looked at together, by the queries and as many temporal ones; both kinds' outputs are added.  One
 * frame is a picture.  Fails as well: TY_EUNSUPPORTED (more frames, and the model sees pictures alone). */
ty_status abstractor_run_videos(abstractor *a, const float *features, int n, int n_frame,
                                int n_token, float *tokens, const ty_dump *dump, ty_err *err);

#endif
