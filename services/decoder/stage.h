/*
 * stage.h - the decoder as a stage of the wire: jobs in, chunks and results out.  The only file here,
 * main.c aside, that knows common/wire.
 */
#ifndef TY_DECODER_STAGE_H
#define TY_DECODER_STAGE_H

#include "common/wire/worker.h"
#include "services/decoder/decoder.h"

/* The ctx of this stage is the decoder. */
extern const ty_stage decoder_stage;

#endif
