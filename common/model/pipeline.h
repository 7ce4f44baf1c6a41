/*
 * pipeline.h - a pipeline directory: pipeline.json names the stage files that make a model of the API.
 *
 *     {"format": "tyto-pipeline", "version": 1, "family": "mplug_owl_v1",
 *      "stages": {"preprocess": "preprocess.gguf", "vit": "vit.gguf",
 *                 "abstractor": "abstractor.gguf", "decoder": "decoder.gguf"}}
 *
 * Paths are relative to the directory.  The API's model name is the directory's basename.  A text-only pipeline has a
 * decoder alone.  Swapping a stage is editing a line.
 */
#ifndef TY_MODEL_PIPELINE_H
#define TY_MODEL_PIPELINE_H

#include "common/model/gguf.h"

enum { TY_PIPELINE_PATH = 4096 };

typedef enum {
    TY_STAGE_PREPROCESS,
    TY_STAGE_VIT,
    TY_STAGE_ABSTRACTOR,
    TY_STAGE_DECODER,
    TY_STAGE_COUNT
} ty_stage_kind;
const char *ty_stage_name(ty_stage_kind k); /* "preprocess" ... */

typedef struct {
    char name[256];                              /* basename of the directory */
    char family[64];                             /* "mplug_owl_v1" */
    char path[TY_STAGE_COUNT][TY_PIPELINE_PATH]; /* "" = the pipeline has no such stage */
    char model_id[TY_STAGE_COUNT][TY_MODEL_ID_SIZE];
    /* With an adapter: its name and identity, and `name` is "BASE+ADAPTER".  Else "". */
    char adapter[64], adapter_id[TY_MODEL_ID_SIZE];
} ty_pipeline;

/* Reads and checks pipeline.json and opens each stage file for its identity.  Fails: TY_ENOTFOUND (names the
 * remedy `tyto import`), TY_EFORMAT. */
ty_status ty_pipeline_load(ty_pipeline *p, const char *dir, ty_err *err);
/* Writes pipeline.json atomically into dir for the stages whose path (relative) is not "". */
ty_status ty_pipeline_save(const ty_pipeline *p, const char *dir, ty_err *err);
/* Makes it the pipeline whose decoder applies the adapter in o->dir (common/model/adapter.h).  Fails: as
 * ty_adapter_open. */
struct ty_adapter_option;
ty_status ty_pipeline_adapt(ty_pipeline *p, const struct ty_adapter_option *o, ty_err *err);
bool ty_pipeline_has_vision(const ty_pipeline *p);
bool ty_pipeline_sees_videos(const ty_pipeline *p); /* by its family */

#endif
