/*
 * receipt.h - `timings`: what a request cost, stage by stage.
 *
 * Every number is measured where it passes: the stages' in the Timing records of the messages, the
 * gateway's own here.  None is a difference of others, so the parts can be held against wall_ms.
 */
#ifndef GATEWAY_RECEIPT_H
#define GATEWAY_RECEIPT_H

#include "common/wire/message.h"

#include <jansson.h>

typedef struct {
    int64_t received_us; /* ty_now_us(): the request was complete */
    int64_t parsed_us;   /* JSON read, the pictures in it decoded */
    int64_t
        loaded_us; /* the conversation and pictures from elsewhere are here; 0 = there were none */
    int64_t pictures_us;    /* all visual tokens are back; 0 without pictures */
    int64_t first_token_us; /* first text given to the client's connection; 0 = none yet */
    int64_t decoded_us;     /* the answer is complete; 0 = not yet */
    int64_t stored_us;      /* the turn is in the store; 0 = not yet, or never to be */
    json_t *stages;         /* array */
} receipt;

ty_status receipt_init(receipt *r, int64_t received_us); /* TY_ENOMEM */
void receipt_clear(receipt *r);
/* Adds the hops of a finished part: its last message, the picture's number (-1: the decode task) and how
 * often the gateway sent it. */
void receipt_add(receipt *r, const ty_message *m, int picture, int sends);
/* The object, up to now.  NULL: out of memory. */
json_t *receipt_json(const receipt *r);

#endif
