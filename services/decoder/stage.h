/*
 * stage.h - the decoder as a stage of the wire: jobs in, chunks and results out.  The only file here,
 * main.c aside, that knows common/wire.
 */
#ifndef TY_DECODER_STAGE_H
#define TY_DECODER_STAGE_H

#include "common/wire/worker.h"
#include "services/decoder/decoder.h"

/*
 * The ctx of the stage.  A token costs six threads' wake-ups on its way to the client, so tokens that follow each other within
 * `chunk_us` travel together: the first of an answer at once, and one waits at most so long and for the step then under way.
 */
typedef struct {
    decoder *d;
    int64_t chunk_us; /* 0 = each token by itself */

    /* The stage's own. */
    struct decoder_open_job *open; /* all of them */
    bool first_token;              /* of an answer, in this step */
} decoder_service;

extern const ty_stage decoder_stage;

#endif
