/*
 * source.h - a checkpoint directory as import sees it: its tensors, its JSON files, and what they
 * say together about the model.
 *
 * Widths, FFN sizes, the vocabulary and the number of queries are read from the tensors; numbers of
 * layers and heads, epsilons and the image size from config.json.  A small file that the directory
 * lacks is looked for in its parent (a checkpoint in another container often lies in a subfolder).
 */
#ifndef TY_SOURCE_H
#define TY_SOURCE_H

#include "common/model/checkpoint.h"
#include "common/model/layout.h"
#include "common/model/pipeline.h"

#include <jansson.h>

typedef struct {
    char dir[4096];
    ty_checkpoint *checkpoint;
    json_t *config;
    bool vision;        /* mPLUG-Owl; else a language model alone */
    bool v2;            /* mPLUG-Owl2 */
    bool video;         /* v1's video variant */
    const char *family; /* "mplug_owl_v1", "mplug_owl_v1_video", "mplug_owl_v2", "llama", "bloom" */
    const char *prefix[TY_STAGE_COUNT]; /* in front of the layouts' names: "language_model." */
    const char *tokenizer_mode;         /* tyto.tokenizer.mode */
    ty_preprocess_dims preprocess;
    ty_vit_dims vit;
    ty_abstractor_dims abstractor;
    ty_decoder_dims decoder;
    float rope_factor; /* linear rope scaling: positions are divided by it; 0 = none */
    int bos, eos, pad; /* -1 = the configuration does not say */
    char notes[1024];  /* lines for the user: files taken from the parent */
} source;

/* Fails: TY_ENOTFOUND (file, tensor), TY_EFORMAT, TY_EUNSUPPORTED (another model: names what was
 * seen). */
ty_status source_open(source *s, const char *dir, ty_err *err);
void source_close(source *s);

/* "<dir>/<name>", or the parent's (noted); TY_ENOTFOUND. */
ty_status source_find(source *s, const char *name, char *path, size_t size, ty_err *err);
/* A JSON object; *out NULL and TY_OK when the file is in neither place. */
ty_status source_json(source *s, const char *name, json_t **out, ty_err *err);

#endif
