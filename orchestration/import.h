/*
 * import.h - a Hugging Face checkpoint directory into a pipeline: what `tyto import` does, and tyto-train at a run's
 * end.
 */
#ifndef TY_IMPORT_H
#define TY_IMPORT_H

#include "orchestration/stage_types.h"

typedef struct {
    const char *src, *out;
    const char *name;    /* general.name of the decoder; NULL: src's last part */
    const char *mode;    /* preprocess_mode_name; NULL: as the checkpoint says */
    const char *adapter; /* folder of a LoRA adapter to merge; NULL: none */
    stage_types types;   /* stage_types_parse */
} import_options;

/* Writes the pipeline, which appears when it is whole; progress goes to stderr, what was made to stdout.  Fails: as
 * source_open, ty_adapter_open, outdir_begin; TY_ESHAPE, TY_EUNSUPPORTED (tensors); TY_EIO (disk). */
ty_status import_pipeline(const import_options *o, ty_err *err);

#endif
