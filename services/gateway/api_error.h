/*
 * api_error.h - what a client is told when something fails: HTTP status, OpenAI's error object, and a
 * remedy.  Every ty_status has its row in one table; a few depend on the stage that failed.
 */
#ifndef GATEWAY_API_ERROR_H
#define GATEWAY_API_ERROR_H

#include "common/base/err.h"

#include <jansson.h>

typedef struct {
    int http;         /* 400 */
    const char *type; /* "invalid_request_error" */
    const char *code; /* "context_length_exceeded" */
    char message[1024];
    char param[256];   /* "" = null */
    int retry_after_s; /* 0 = no Retry-After header */
} api_error;

/* From a failure: text is what failed, stage where ("" or NULL: the gateway itself).  The remedy is
 * appended to the message. */
void api_error_set(api_error *e, ty_status st, const char *stage, const char *text,
                   const char *param);
/* From a failure of the store: what ("conversation", "file") gives the codes their names, such as
 * conversation_not_found. */
void api_error_store(api_error *e, ty_status st, const char *what, const char *text,
                     const char *param);
/* From a picture that was to be fetched from an address (fetch.h): the client's to mend. */
void api_error_address(api_error *e, ty_status st, const char *text, const char *param);
/* 501: there is no store; param may be NULL. */
void api_error_no_store(api_error *e, const char *param);
/* One that no ty_status names: 404 model_not_found, 405, 413... */
__attribute__((format(printf, 5, 6))) void api_error_make(api_error *e, int http, const char *code,
                                                          const char *param, const char *fmt, ...);
/* {"error": {"message", "type", "param", "code"}}; NULL: out of memory. */
json_t *api_error_json(const api_error *e);

#endif
